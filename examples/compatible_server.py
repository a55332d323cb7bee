# SPDX-License-Identifier: Apache-2.0
"""Any server with OpenAI's API, here sgl-runtime's own: start it first with `sgl-runtime serve`.

`pip install 'sgl-lang[openai]'`. On sgl-runtime, RuntimeEndpoint can do more.
"""

import sgl_lang as sgl

WHERE = "http://localhost:30000/v1"


@sgl.function
def chat(s, question):
    s += sgl.system("You are a helpful assistant.")
    s += sgl.user(question)
    s += sgl.assistant(sgl.gen("answer", max_tokens=48, temperature=0))


@sgl.function
def continue_text(s):
    s += "The capital of France is" + sgl.select("capital", [" Paris", " Berlin", " Rome"])


state = chat.run(
    "What is the capital of France?", backend=sgl.OpenAI("default", base_url=WHERE, api_key="EMPTY")
)
print(state["answer"])

base = sgl.OpenAI("default", is_chat_model=False, base_url=WHERE, api_key="EMPTY")
print(continue_text.run(backend=base)["capital"])
