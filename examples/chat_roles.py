# SPDX-License-Identifier: Apache-2.0
"""Roles, in the three ways to write them. Start the server first: `sgl-runtime serve`."""

import sgl_lang as sgl


@sgl.function
def chat_example(s):
    s += sgl.system("You are a helpful assistant.")
    # The same as: s += s.system("You are a helpful assistant.")

    with s.user():
        s += "Question: What is the capital of France?"

    s += sgl.assistant_begin()
    s += "Answer:" + sgl.gen("answer", max_tokens=100, stop="\n")
    s += sgl.assistant_end()


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))

state = chat_example.run(temperature=0)
print(state.text())
