# SPDX-License-Identifier: Apache-2.0
"""Two turns with a model of OpenAI's. `pip install 'sgl-lang[openai]'`, and set OPENAI_API_KEY."""

from sgl_lang import OpenAI, assistant, function, gen, set_default_backend, system, user


@function
def multi_turn_question(s, question_1, question_2):
    s += system("You are a helpful assistant.")
    s += user(question_1)
    s += assistant(gen("answer_1", max_tokens=256))
    s += user(question_2)
    s += assistant(gen("answer_2", max_tokens=256))


set_default_backend(OpenAI("gpt-4o-mini"))

state = multi_turn_question.run(
    question_1="What is the capital of the United States?",
    question_2="List two local attractions.",
)

for m in state.messages():
    print(m["role"], ":", m["content"])

print(state["answer_1"])
