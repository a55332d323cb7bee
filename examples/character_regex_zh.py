# SPDX-License-Identifier: Apache-2.0
"""JSON by a regular expression, in Chinese. Start the server first: `sgl-runtime serve`."""

import json

import sgl_lang as sgl

character_regex = (
    r"""\{\n"""
    r"""    "name": "[\w\d\s]{1,16}",\n"""
    r"""    "house": "(格兰芬多|斯莱特林|拉文克劳|赫奇帕奇)",\n"""
    r"""    "blood status": "(纯血统|混血|麻瓜出身)",\n"""
    r"""    "occupation": "(学生|教师|傲罗|魔法部|食死徒|凤凰社)",\n"""
    r"""    "wand": \{\n"""
    r"""        "wood": "[\w\d\s]{1,16}",\n"""
    r"""        "core": "[\w\d\s]{1,16}",\n"""
    r"""        "length": [0-9]{1,2}\.[0-9]{1,2}\n"""
    r"""    \},\n"""
    r"""    "alive": "(在世|已故)",\n"""
    r"""    "patronus": "[\w\d\s]{1,16}",\n"""
    r"""    "bogart": "[\w\d\s]{1,16}"\n"""
    r"""\}"""
)


@sgl.function
def character_gen(s, name):
    s += name + "是《哈利·波特》中的一个角色。请填写以下关于这个角色的信息。\n"
    s += sgl.gen("json_output", max_tokens=384, regex=character_regex)


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))

state = character_gen.run(name="哈利", temperature=0)
print(state["json_output"])
character = json.loads(state["json_output"], strict=False)
