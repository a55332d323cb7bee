# SPDX-License-Identifier: Apache-2.0
"""A regular expression says what an answer looks like. Start the server first: `sgl-runtime serve`."""

import sgl_lang as sgl


@sgl.function
def regular_expression_gen(s):
    s += "Q: What is the IP address of the Google DNS servers?\n"
    s += "A: " + sgl.gen(
        "answer",
        temperature=0,
        regex=r"((25[0-5]|2[0-4]\d|[01]?\d\d?)\.){3}(25[0-5]|2[0-4]\d|[01]?\d\d?)",
    )


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))

state = regular_expression_gen.run()
print(state.text())
