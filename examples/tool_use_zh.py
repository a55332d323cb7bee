# SPDX-License-Identifier: Apache-2.0
"""tool_use.py in Chinese. Start the server first: `sgl-runtime serve`."""

import sgl_lang as sgl


@sgl.function
def tool_use(s, question):
    s += "为了回答这个问题:" + question + "。"
    s += "我需要使用" + sgl.gen("tool", choices=["计算器", "搜索引擎"]) + "。"

    if s["tool"] == "计算器":
        s += "数学表达式是" + sgl.gen("expression", max_tokens=32)
    elif s["tool"] == "搜索引擎":
        s += "要搜索的关键词是" + sgl.gen("word", max_tokens=32)


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))

state = tool_use.run(question="二加三等于几?", temperature=0)
print(state.text())
