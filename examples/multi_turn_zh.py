# SPDX-License-Identifier: Apache-2.0
"""multi_turn.py in Chinese. Start the server first: `sgl-runtime serve`."""

from sgl_lang import RuntimeEndpoint, assistant, function, gen, set_default_backend, system, user


@function
def multi_turn_question(s, question_1, question_2):
    s += system("你是一个乐于助人的助手。")
    s += user(question_1)
    s += assistant(gen("answer_1", max_tokens=256))
    s += user(question_2)
    s += assistant(gen("answer_2", max_tokens=256))


set_default_backend(RuntimeEndpoint("http://localhost:30000"))

state = multi_turn_question.run(
    question_1="美国的首都是哪里?",
    question_2="列举两个当地景点。",
)

for m in state.messages():
    print(m["role"], ":", m["content"])

print(state["answer_1"])
