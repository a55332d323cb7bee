# SPDX-License-Identifier: Apache-2.0
"""Constraints as users write them; what cannot be enforced never reaches a replica, and holds nobody up."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from scripted import CAPACITY, byte_tokenizer

from sgl_runtime.engine import constraints as module
from sgl_runtime.engine.constraints import Constraints
from sgl_runtime.engine.prepare import Ask, Preparation
from sgl_runtime.engine.sampling import SamplingBody
from sgl_runtime.errors import InvalidRequest, Overloaded
from sgl_runtime.messages import Constraint

pytestmark = pytest.mark.anyio


async def constraint_of(tokenizer: Any = None, **fields: Any) -> Constraint | None:
    ask = Ask(
        prompt=[1, 2],
        source="input_ids",
        sampling=SamplingBody(**fields),
        spell=lambda field: f"its.{field}",
        id="me",
        rid="us",
        default_length=4,
    )
    preparation = Preparation(tokenizer or byte_tokenizer(), CAPACITY, seeds=random.Random(1))
    (sample,) = (await preparation.prepare([ask])).samples
    return sample.generate.sampling.constraint


async def test_a_schema_comes_as_text_or_as_itself() -> None:
    text = '{"type":"object","properties":{"b":{"const":18446744073709551617},"a":{"type":"number"}}}'
    schema = {"type": "object", "properties": {"b": {"const": 2**64 + 1}, "a": {"type": "number"}}}
    assert await constraint_of(json_schema=text) == Constraint("json_schema", text)
    assert await constraint_of(json_schema=schema) == Constraint("json_schema", text)
    assert await constraint_of(json_schema=True) == Constraint("json_schema", "true")
    assert await constraint_of(regex="中+") == Constraint("regex", "中+")
    assert await constraint_of(ebnf='root ::= "a"') == Constraint("ebnf", 'root ::= "a"')
    assert await constraint_of() is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"regex": r"(a)\1"}, ("its.regex", "backreference", "position 3")),
        ({"json_schema": {"properties": {"x": {"uniqueItems": True}}}}, ("uniqueItems", "/properties/x")),
        ({"json_schema": "{"}, ("its.json_schema", "JSON")),
        ({"ebnf": 'root ::= "a'}, ("its.ebnf", "line 1")),
        ({"ebnf": "root ::= root | root"}, ("its.ebnf",)),
        ({"regex": "a{5}", "json_schema": {}}, ("its.regex", "its.json_schema", "one constraint")),
    ],
)
async def test_a_refusal_says_what_and_where(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await constraint_of(**fields)
    assert caught.value.param is not None and caught.value.param.startswith("its.")
    for word in words:
        assert word in caught.value.message


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", "(a|b)*a(a|b){14}" * 40),
        Constraint("regex", "(((a{0,1000}){0,1000}){0,1000}b){0,1000}"),
        Constraint("regex", "(" * 5_000 + ")" * 5_000),
        Constraint("json_schema", '{"enum":[' + ",".join(map(str, range(400_000))) + "]}"),
        Constraint("json_schema", '{"not":' * 5_000 + "{}" + "}" * 5_000),
        Constraint("regex", "x" * 10_000_000),
    ],
    ids=lambda constraint: constraint.text[:12],
)
async def test_poison_is_refused_or_compiled_and_what_follows_is_answered(constraint: Constraint) -> None:
    constraints = Constraints()
    poison = asyncio.ensure_future(_outcome(constraints, constraint))
    await asyncio.sleep(0)
    assert await _outcome(constraints, Constraint("regex", "a+")) is None
    assert await poison in (None, constraint.kind)


async def _outcome(constraints: Constraints, constraint: Constraint) -> str | None:
    try:
        await constraints.check(constraint, constraint.kind)
    except InvalidRequest as error:
        return error.param
    return None


async def test_a_verdict_is_reached_once_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile = module.compile_constraint

    def counting(compiler: Any, constraint: Constraint) -> Any:
        compiled.append(constraint.text)
        return compile(compiler, constraint)

    monkeypatch.setattr(module, "compile_constraint", counting)
    constraints = Constraints()
    wrong, right = Constraint("regex", "a("), Constraint("regex", "a")
    both = [_outcome(constraints, each) for each in (wrong, right) * 3]
    assert await asyncio.gather(*both) == ["regex", None] * 3
    assert await _outcome(constraints, wrong) == "regex"
    assert sorted(compiled) == ["a", "a("]


async def test_a_refusal_that_quotes_the_source_is_cut() -> None:
    with pytest.raises(InvalidRequest, match="xxx") as refused:
        await Constraints().check(Constraint("ebnf", "root ::= " + "x" * 100_000), "ebnf")
    assert len(refused.value.message) < 1100


async def test_a_crowd_of_new_constraints_is_compiled() -> None:
    constraints = Constraints()
    checks = [constraints.check(Constraint("regex", f"a{{{n}}}"), "regex") for n in range(300)]
    assert await asyncio.gather(*checks) == [None] * 300


async def test_what_has_waited_too_long_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    constraints, constraint = Constraints(), Constraint("regex", "a+")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_PATIENCE_S", -1.0)
        with pytest.raises(Overloaded, match="try again"):
            await constraints.check(constraint, "regex")
    await constraints.check(constraint, "regex")
