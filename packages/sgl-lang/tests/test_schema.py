# SPDX-License-Identifier: Apache-2.0
"""JSON schemas of everything that describes data, against jsonschema and values of the class itself."""

from __future__ import annotations

import datetime
import enum
import json
import threading
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jsonschema
import msgspec
import pydantic
import pytest

import sgl_lang as sgl
from sgl_lang import ProgramError
from sgl_lang.schema import schema_text


class House(enum.Enum):
    LION = "lion"
    SNAKE = "snake"


@dataclass
class Wand:
    wood: str
    length: float


@dataclass
class Character:
    name: str
    age: int
    house: House
    wand: Wand | None
    alive: bool = True
    kind: Literal["wizard", "witch"] = "wizard"
    friends: list[Character] = field(default_factory=list)
    marks: dict[str, int] = field(default_factory=dict)
    born: tuple[int, int] = (1, 1980)
    spells: tuple[str, ...] = ()
    other: Any = None


GOOD = Character("Ada", 11, House.LION, Wand("oak", 12.5), friends=[Character("Bo", 12, House.SNAKE, None)])


def plain(value: Any) -> Any:
    return json.loads(json.dumps(asdict(value), default=lambda entry: entry.value))


def test_a_dataclass_describes_its_values():
    schema = json.loads(schema_text(Character))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(plain(GOOD), schema)
    assert list(schema["$defs"]["Character"]["properties"])[:4] == ["name", "age", "house", "wand"]
    for change in ({"age": "11"}, {"house": "bear"}, {"wand": {"wood": "oak"}}, {"born": [1]}, {"extra": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**plain(GOOD), **change}, schema)


def test_the_other_classes_describe_themselves():
    class Model(pydantic.BaseModel):
        name: str
        age: int

    class Struct(msgspec.Struct):
        name: str
        age: int

    for described in (Model, Struct):
        schema = json.loads(schema_text(described))
        jsonschema.validate({"name": "Ada", "age": 11}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"name": "Ada", "age": "x"}, schema)


def test_dicts_and_texts_are_taken_as_they_are():
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
    assert json.loads(schema_text(schema)) == schema
    assert schema_text('{"type": "object"}') == '{"type": "object"}'
    (part,) = sgl.gen("a", json_schema=schema).parts
    assert list(json.loads(part.params.json_schema)["properties"]) == ["b", "a"]


def test_a_dataclass_of_pydantics_is_described_by_pydantic():
    @pydantic.dataclasses.dataclass
    class Born:
        when: datetime.date
        weight: float = pydantic.Field(gt=0)

    properties = json.loads(schema_text(Born))["properties"]
    assert properties["when"]["format"] == "date"
    assert properties["weight"]["exclusiveMinimum"] == 0


def test_what_describes_nothing_is_refused():
    @dataclass
    class Odd:
        when: complex

    @dataclass
    class Unresolved:
        what: Nowhere  # noqa: F821

    class Thread(pydantic.BaseModel, arbitrary_types_allowed=True):
        runs: threading.Thread

    class Number(msgspec.Struct):
        of: complex

    for schema, words in (
        ("{", "no valid JSON"),
        ("[1]", "must be a JSON object"),
        (5, "must be a dict"),
        (int, "must be a dict"),
        ({"a": object()}, "cannot be written"),
        ('{"maximum": NaN}', "JSON has no NaN"),
        (Unresolved, "Unresolved cannot be described: name 'Nowhere' is not defined"),
        (Thread, "Thread cannot be described"),
        (Number, "Number cannot be described"),
        (Odd, r"Odd\.when has the type"),
    ):
        with pytest.raises(ProgramError, match=words):
            sgl.gen("a", json_schema=schema)


def test_only_one_thing_says_what_a_text_looks_like():
    with pytest.raises(ProgramError, match="regex and json_schema cannot both"):
        sgl.gen("a", regex="a", json_schema={})
    with pytest.raises(ProgramError, match="dtype and regex"):
        sgl.gen_int("a", regex="a")
    with pytest.raises(ProgramError, match="regex is no regular expression"):
        sgl.gen("a", regex="(")
    with pytest.raises(ProgramError, match="stop_regex is no regular expression"):
        sgl.gen("a", stop_regex=["a", "["])
    with pytest.raises(ProgramError, match="dtype must be"):
        sgl.gen("a", dtype=complex)
