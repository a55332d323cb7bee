# SPDX-License-Identifier: Apache-2.0
"""Text as it is generated. Start the server first: `sgl-runtime serve`."""

import sgl_lang as sgl


@sgl.function
def text_qa(s, question):
    s += "Q: " + question + "\n"
    s += "A: " + sgl.gen("answer", stop="\n")


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))

state = text_qa.run(question="What is the capital of France?", temperature=0.1, stream=True)

for out in state.text_iter():
    print(out, end="", flush=True)
print()
