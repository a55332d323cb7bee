# SPDX-License-Identifier: Apache-2.0
"""A batch: many runs at once. Start the server first: `sgl-runtime serve`."""

import sgl_lang as sgl


@sgl.function
def text_qa(s, question):
    s += "Q: " + question + "\n"
    s += "A:" + sgl.gen("answer", max_tokens=32, stop="\n")


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))

states = text_qa.run_batch(
    [
        {"question": "What is the capital of the United Kingdom?"},
        {"question": "What is the capital of France?"},
        {"question": "What is the capital of Japan?"},
    ],
    temperature=0,
    progress_bar=True,
)

for state in states:
    print(state["answer"].strip())
