# SPDX-License-Identifier: Apache-2.0
"""Control flow: the model chooses, the program goes on so. Start the server first: `sgl-runtime serve`."""

import sgl_lang as sgl


@sgl.function
def tool_use(s, question):
    s += "To answer this question: " + question + ". "
    s += "I need to use a " + sgl.gen("tool", choices=["calculator", "search engine"]) + ". "

    if s["tool"] == "calculator":
        s += "The math expression is" + sgl.gen("expression", max_tokens=32, stop="\n")
    elif s["tool"] == "search engine":
        s += "The key word to search is" + sgl.gen("word", max_tokens=32, stop="\n")


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))

state = tool_use.run(question="What is 2 + 3 * 4?", temperature=0)
print(state.text())

told = state.get_meta_info("tool")
for choice, logprob in zip(["calculator", "search engine"], told["normalized_prompt_logprobs"], strict=True):
    print(f"{choice}: {logprob:.3f} per token")
