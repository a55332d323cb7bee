# SPDX-License-Identifier: Apache-2.0
"""Parallelism: two forks write at the same time. Start the server first: `sgl-runtime serve`."""

import sgl_lang as sgl


@sgl.function
def tip_suggestion(s):
    s += "Here are two tips for staying healthy: 1. Balanced Diet. 2. Regular Exercise.\n\n"

    forks = s.fork(2)
    for i, f in enumerate(forks):
        f += f"Now, expand tip {i + 1} into a paragraph:\n"
        f += sgl.gen("detailed_tip", max_tokens=64, stop="\n\n")

    s += "Tip 1:" + forks[0]["detailed_tip"] + "\n"
    s += "Tip 2:" + forks[1]["detailed_tip"] + "\n"
    s += "In summary" + sgl.gen("summary", max_tokens=64)


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))

state = tip_suggestion.run(temperature=0)
print(state.text())
print(state.usage())
