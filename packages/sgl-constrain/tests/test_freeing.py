# SPDX-License-Identifier: Apache-2.0
"""What is forgotten is freed at once, by counting references: in a large process Python collects rarely."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from sgl_constrain import Compiler, ConstrainError, Grammar, Limits, Matcher, Vocabulary
from sgl_constrain.automaton import Automaton
from sgl_constrain.expression import Expressions
from sgl_constrain.slices import Slices
from sgl_constrain.twin import ENGINE

_RULES = {"$defs": {"n": {"properties": {"c": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}
_KEYS = {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "minProperties": 1}
_NO_VALUE = {"allOf": [{"type": "string"}, {"type": "null"}]}
GRAMMARS: dict[str, Callable[[Compiler], Grammar]] = {
    "regex": lambda compiler: compiler.regex("[a-z]{1,9}x"),
    "lookahead": lambda compiler: compiler.regex("(?!ab)[a-z]+"),
    "choice": lambda compiler: compiler.choice(["yes", "no"]),
    "schema": lambda compiler: compiler.json_schema({"properties": {"a": {"type": "integer", "minimum": 3}}}),
    "rules": lambda compiler: compiler.json_schema(_RULES),
    "keys": lambda compiler: compiler.json_schema(_KEYS, key_order="any"),
    "unique": lambda compiler: compiler.json_schema({"items": {"enum": [1, 2]}, "uniqueItems": True}),
    "gbnf": lambda compiler: compiler.gbnf('root ::= "a" root? "b"'),
    "lark": lambda compiler: compiler.lark('start: "a" b*\nb: /[0-9]+/'),
}
REFUSED: dict[str, Callable[[Compiler], Grammar]] = {
    "pattern": lambda compiler: compiler.regex("a("),
    "no text": lambda compiler: compiler.regex("(?!)"),
    "schema": lambda compiler: compiler.json_schema({"type": "poem"}),
    "no value": lambda compiler: compiler.json_schema(_NO_VALUE),
    "too large": lambda compiler: compiler.regex("(?=.*a.{12}c$)(?=.*b.{12}c$)[abc]*"),
}


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="module")
def one_at_a_time(vocabulary: Vocabulary) -> Compiler:
    """It forgets all but the last grammar."""
    return Compiler(vocabulary, cache_bytes=0, limits=Limits(states=200))


@pytest.fixture(params=["pure", "native"])
def compiler(
    request: pytest.FixtureRequest, one_at_a_time: Compiler, monkeypatch: pytest.MonkeyPatch
) -> Compiler:
    module = request.getfixturevalue("native_module") if request.param == "native" else None
    monkeypatch.setattr(ENGINE, "module", module)
    return one_at_a_time


def _alive() -> int:
    # Not isinstance: among the objects of other packages are some that answer for what they stand for.
    return sum(type(each) in (Grammar, Automaton, Expressions) for each in gc.get_objects())


def _use(grammar: Grammar) -> None:
    matcher = Matcher(grammar)
    for _ in range(8):
        grammar.forced(matcher.state)
        allowed = matcher.allowed_token_ids()
        if not matcher.accept_token(int(allowed[len(allowed) // 2])) or matcher.is_terminated():
            break


@pytest.mark.parametrize("kind", GRAMMARS)
@pytest.mark.usefixtures("no_collection")
def test_a_grammar_that_was_used_is_freed_when_it_is_forgotten(compiler: Compiler, kind: str) -> None:
    compiler.regex("a")
    before = _alive()
    for _ in range(3):
        _use(GRAMMARS[kind](compiler))
        compiler.regex("a")
        assert _alive() == before


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.usefixtures("no_collection")
def test_of_a_grammar_that_was_refused_nothing_stays(compiler: Compiler, kind: str) -> None:
    compiler.regex("a")
    before = _alive()
    for _ in range(3):
        with pytest.raises(ConstrainError):
            REFUSED[kind](compiler)
    assert _alive() == before


def test_classes_of_characters_do_not_pile_up(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch, accepts: Callable[[Grammar, str], bool]
) -> None:
    compiler = Compiler(vocabulary)
    size, first = (
        len(Slices(vocabulary.trie, vocabulary.size).heads.edges),
        len(vocabulary.slices.heads.edges),
    )
    monkeypatch.setattr("sgl_constrain.compiler._MOST_HEADS", size + 40)
    made = []
    for number in range(60):
        low, high = chr(0x400 + 7 * number), chr(0x2000 + 11 * number)
        pattern = f"[{low}-{high}]{{1,9}}"
        made.append((low + high, compiler.regex(pattern), compiler.json_schema({"pattern": f"^{pattern}$"})))
        assert len(compiler._shared.slices.heads.edges) < max(size, first) + 80
    assert len(vocabulary.slices.heads.edges) < first + 80
    for text, grammar, schema in made:
        assert accepts(grammar, text) and not accepts(grammar, text + "a")
        assert accepts(schema, f'"{text}"') and not accepts(schema, f'"{text}a"')
    assert len({id(grammar._expressions.heads) for _, grammar, _ in made}) > 3
