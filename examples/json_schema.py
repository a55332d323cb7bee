# SPDX-License-Identifier: Apache-2.0
"""JSON that fits a class. Start the server first: `sgl-runtime serve`.

A pydantic model or a msgspec Struct would do as well as the dataclass.
"""

import json
from dataclasses import dataclass
from typing import Literal

import sgl_lang as sgl


@dataclass
class Wand:
    wood: str
    length: float


@dataclass
class Character:
    name: str
    house: Literal["Gryffindor", "Slytherin", "Ravenclaw", "Hufflepuff"]
    alive: bool
    wand: Wand


@sgl.function
def character_gen(s, name):
    s += (
        name
        + " is a character in Harry Potter. Please fill in the following information about this character.\n"
    )
    s += sgl.gen("json_output", max_tokens=256, json_schema=Character)


sgl.set_default_backend(sgl.RuntimeEndpoint("http://localhost:30000"))

state = character_gen.run(name="Harry", temperature=0)
print(state["json_output"])
character = json.loads(state["json_output"])
