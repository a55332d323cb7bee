# SPDX-License-Identifier: Apache-2.0
"""Programs that are coroutines, in one event loop. Start the server first: `sgl-runtime serve`."""

import asyncio

import sgl_lang as sgl


@sgl.function
async def debate(s, claim):
    s += claim + "\n"
    async with s.fork(2) as forks:
        forks += ["What speaks for it: ", "What speaks against it: "]
        forks += sgl.gen("argument", max_tokens=32, stop="\n")
    pro, contra = await s["argument"]
    s += f"For: {pro}\nAgainst: {contra}\nAll in all," + sgl.gen("verdict", max_tokens=32, stop="\n")


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))


async def main():
    claims = ["Tea is better than coffee.", "Trains are better than cars."]
    states = await asyncio.gather(*(debate.run_async(claim, temperature=0) for claim in claims))
    return [await state["verdict"] for state in states]


verdicts = asyncio.run(main())
print("\n".join(verdicts))
