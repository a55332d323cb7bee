# SPDX-License-Identifier: Apache-2.0
"""A deployment on Azure, streamed.

`pip install 'sgl-lang[openai]'`, and set AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_KEY.
"""

import sgl_lang as sgl


@sgl.function
def poem(s, subject):
    s += sgl.user("Write two lines about " + subject + ".")
    s += sgl.assistant(sgl.gen("lines", max_tokens=64))


backend = sgl.OpenAI("my-deployment", is_azure=True, api_version="2024-10-21")
state = poem.run("rain", backend=backend, stream=True)

for out in state.text_iter("lines"):
    print(out, end="", flush=True)
print()
