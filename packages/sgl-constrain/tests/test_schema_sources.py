# SPDX-License-Identifier: Apache-2.0
"""Types in place of schemas: what is written under the grammar is what the type's own library reads, and what
that library writes is in the language.
"""

from __future__ import annotations

import datetime
import enum
import json
import random
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from sgl_constrain import Compiler, Grammar, InvalidSchema


def written(grammar: Grammar, rng: random.Random, allowed: Callable[[Grammar, int], list[int]]) -> str:
    """A text under the masks: at random at first, then whatever closes strings, arrays and objects."""
    vocabulary, state, data = grammar.vocabulary, grammar.start, b""
    for step in range(600):
        tokens = allowed(grammar, state)
        assert tokens, f"dead end after {data!r}"
        texts = [token for token in tokens if token not in vocabulary.eos]
        if len(texts) < len(tokens) and (not texts or step > 40 or rng.random() < 0.3):
            return data.decode()
        if step > 40:
            bytes_only = [token for token in texts if len(vocabulary[token]) == 1]
            closing = [
                token for byte in (b'"', b"}", b"]", b",") for token in texts if vocabulary[token] == byte
            ]
            texts = closing[:1] or bytes_only
        token = rng.choice(texts)
        state = grammar.step(state, token)
        data += vocabulary[token]
    raise AssertionError(f"no end: {data!r}")


class Colour(enum.Enum):
    RED = "red"
    NONE = "né"


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int = pydantic.Field(ge=0, le=9)


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    name: str = pydantic.Field(min_length=1, max_length=12, pattern=r"^[A-Z]\w*$")


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    id: uuid.UUID
    day: datetime.date
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
    colours: set[Colour] = pydantic.Field(max_length=2)
    price: float | None = None
    pair: tuple[int, bool] = (0, False)
    notes: dict[str, str] = {}
    shipped_to: str = pydantic.Field("here", alias="shippedTo")


class Node(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    value: int | None
    children: list[Node] = []


class Circle(msgspec.Struct, tag="circle", forbid_unknown_fields=True):
    radius: Annotated[int, msgspec.Meta(gt=0, lt=1000)]


class Path(msgspec.Struct, tag="path", forbid_unknown_fields=True):
    points: Annotated[list[tuple[int, int]], msgspec.Meta(min_length=1, max_length=3)]
    colour: Colour = Colour.RED


class Drawing(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    drawn_on: datetime.date
    shapes: list[Circle | Path]
    title: str | None = None


@dataclass
class Address:
    street: str
    number: int | None


@dataclass
class Person:
    name: str
    kind: Literal["a", "b"]
    homes: list[Address] = field(default_factory=list)


@pytest.mark.parametrize("model", [Order, Node, Cat])
def test_what_a_pydantic_model_allows_it_reads(
    compiler: Compiler, allowed: Callable[[Grammar, int], list[int]], model: Any
) -> None:
    grammar = compiler.json_schema(model, compact=True)
    for seed in range(8):
        text = written(grammar, random.Random(seed), allowed)
        assert isinstance(model.model_validate_json(text), model), text


def test_what_a_pydantic_model_writes_is_allowed(
    compiler: Compiler, accepts: Callable[[Grammar, str | bytes], bool]
) -> None:
    order = {
        "id": str(uuid.UUID(int=7)), "day": "2024-02-29", "pet": {"kind": "dog", "name": "Rex_1"},
        "colours": ["red"], "price": -1.5e-7, "pair": [3, True], "notes": {"a\n": "\"é"}, "shippedTo": "",
    }  # fmt: skip
    grammar = compiler.json_schema(Order)
    assert accepts(grammar, Order.model_validate(order).model_dump_json(by_alias=True))
    for change in ({"pet": {"kind": "cat", "lives": 10}}, {"day": "2023-02-29"}, {"extra": 1}):
        with pytest.raises(pydantic.ValidationError):
            Order.model_validate(order | change)
        assert not accepts(grammar, json.dumps(order | change))
    tree = Node(value=1, children=[Node(value=None), Node(value=2, children=[Node(value=3)])])
    assert accepts(compiler.json_schema(Node), tree.model_dump_json())
    assert accepts(compiler.json_schema(Node), tree.model_dump_json(indent=1))


def test_a_msgspec_struct(
    compiler: Compiler,
    accepts: Callable[[Grammar, str | bytes], bool],
    allowed: Callable[[Grammar, int], list[int]],
) -> None:
    grammar = compiler.json_schema(Drawing, compact=True)
    for seed in range(8):
        text = written(grammar, random.Random(seed), allowed)
        assert isinstance(msgspec.json.decode(text, type=Drawing), Drawing), text
    drawing = Drawing(datetime.date(2026, 11, 24), [Circle(3), Path([(1, -2)], Colour.NONE)], "é")
    assert accepts(grammar, msgspec.json.encode(drawing))
    for wrong in (Circle(1000), Path([])):
        assert not accepts(grammar, msgspec.json.encode(msgspec.structs.replace(drawing, shapes=[wrong])))


def test_a_dataclass(
    compiler: Compiler,
    accepts: Callable[[Grammar, str | bytes], bool],
    allowed: Callable[[Grammar, int], list[int]],
) -> None:
    grammar = compiler.json_schema(Person)
    for seed in range(8):
        text = written(grammar, random.Random(seed), allowed)
        assert isinstance(msgspec.json.decode(text, type=Person), Person), text
    person = Person("é", "b", [Address("x", None), Address("", 3)])
    assert accepts(grammar, json.dumps(asdict(person)))
    assert not accepts(grammar, json.dumps(asdict(person) | {"kind": "c"}))


@pydantic.dataclasses.dataclass
class Bounded:
    x: Annotated[int, pydantic.Field(ge=0)]


@pytest.mark.parametrize("source", [Bounded, pydantic.TypeAdapter(Bounded)])
def test_constraints_of_pydantic_hold_outside_of_models_too(
    compiler: Compiler, accepts: Callable[[Grammar, str | bytes], bool], source: object
) -> None:
    grammar = compiler.json_schema(source)
    assert accepts(grammar, '{"x": 0}') and not accepts(grammar, '{"x": -1}')


def test_a_type_and_its_schema_are_one_grammar(compiler: Compiler) -> None:
    assert compiler.json_schema(Cat) is compiler.json_schema(Cat.model_json_schema())
    assert compiler.json_schema(Person) is compiler.json_schema(json.dumps(msgspec.json.schema(Person)))


def test_what_is_no_schema_is_refused(compiler: Compiler) -> None:
    class Plain:
        pass

    for source in (
        Plain,
        Plain(),
        3,
        [1],
        "{",
        object(),
        {"a": {1, 2}},
        float("nan"),
    ):
        with pytest.raises(InvalidSchema):
            compiler.json_schema(source)
