# SPDX-License-Identifier: Apache-2.0
"""Few-shot questions to a completion model of OpenAI's, and a choice that it makes token by token.

`pip install 'sgl-lang[openai]'`, and set OPENAI_API_KEY.
"""

import sgl_lang as sgl


@sgl.function
def few_shot_qa(s, question):
    s += "The following are questions with answers.\n\n"
    s += "Q: What is the capital of France?\nA: Paris\n"
    s += "Q: What is the capital of Germany?\nA: Berlin\n"
    s += "Q: " + question + "\n"
    s += "A:" + sgl.gen("answer", stop="\n", temperature=0)
    s += "\nIs that a city? Answer: " + sgl.select("city", ["yes", "no"])


sgl.set_default_backend(sgl.OpenAI("gpt-3.5-turbo-instruct"))

state = few_shot_qa.run("What is the capital of the United States?")
print(state["answer"], state["city"])
