# SPDX-License-Identifier: Apache-2.0
"""The twin in C: the same masks as the pure walk, and no trust in what it is given."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import weakref
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sgl_constrain import Compiler, Grammar, GrammarTooLarge, Limits, Vocabulary
from sgl_constrain.twin import ENGINE, native
from sgl_constrain.walk import Walks

SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "kind": {"enum": ["one", "two", "other"]},
            "mail": {"type": "string", "format": "email"},
            "id": {"type": "string", "pattern": "^[a-z0-9]{3,90}$", "maxLength": 60},
            "sizes": {"type": "array", "items": {"type": "number"}, "minItems": 1},
        },
        "required": ["name", "mail"],
    },
    {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}},
]
PATTERNS = [r"(\w+ ){2,4}\w+\.", r".{1,100}", r"[^\x00-\x7f]+", r"(?i)straße.*", r"\s{0,20}x", r"(?!.*foo).*"]


def integers(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.int32)


def grammars(vocabulary: Vocabulary) -> list[Grammar]:
    compiler = Compiler(vocabulary)
    return [compiler.json_schema(schema) for schema in SCHEMAS] + [compiler.regex(p) for p in PATTERNS]


def test_both_engines_give_the_same_masks(
    smollm2: Vocabulary, native_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINE, "module", None)
    pure = grammars(smollm2)
    assert not native() and isinstance(pure[0]._walks, Walks)
    monkeypatch.setattr(ENGINE, "module", native_module)
    twins = grammars(smollm2)
    assert native() and not isinstance(twins[0]._walks, Walks)
    rng = random.Random(5)
    for one, other in zip(pure, twins, strict=True):
        for _ in range(3):
            a, b = one.start, other.start
            for _ in range(25):
                mask = one.mask(a)
                assert np.array_equal(mask, other.mask(b))
                allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
                short = [
                    i for i in rng.sample(allowed.tolist(), min(20, allowed.size)) if i not in smollm2.eos
                ]
                if not short:
                    break
                token = min(short, key=lambda i: len(smollm2[i]))
                a, b = one.step(a, token), other.step(b, token)


def test_limits_hold_in_the_twin(
    vocabulary: Vocabulary, native_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINE, "module", native_module)
    pattern = "(the|[^x]{3,60}(ab|ac|ad|ae))*"
    for _ in range(3):  # until the vocabulary knows its classes
        free = Compiler(vocabulary).regex(pattern)
        free.mask(free.start)
    needed = len(free._automaton.states)
    grammar = Compiler(vocabulary, limits=Limits(states=needed - 1)).regex(pattern)
    for _ in range(2):  # and again, for nothing was left half-done
        with pytest.raises(GrammarTooLarge) as caught:
            grammar.mask(grammar.start)
        assert caught.value.limit == "states"
    tight = Compiler(vocabulary, limits=Limits(rows=5)).regex(r"([^x]{3,60}a)*")
    roomy = Compiler(vocabulary).regex(r"([^x]{3,60}a)*")
    for end in range(12):
        masks = [g.mask(g.step_bytes(g.start, b"the baaal is a"[:end])) for g in (tight, roomy)]
        assert np.array_equal(*masks)


def alike(target: int, *values: int) -> tuple[int, bytes]:
    return target, sum(1 << value for value in values).to_bytes(32, "little")


def tree(module: ModuleType) -> Any:
    """a -> token 0, ab -> 1, ac; aca -> 2. Token 5 is 1 again."""
    return module.Tree(
        integers(97, 98, 99, 97), integers(2, 0, 1, 0), integers(0, 1, -1, 2), integers(5), integers(1), 1, 9
    )


def test_a_walk_sets_the_bits_of_what_can_be_reached(native_module: ModuleType) -> None:
    asked: list[tuple[int, int]] = []

    def step(state: int, byte: int) -> tuple[int, bytes]:
        asked.append((state, byte))
        return alike(state + 1, 97, 98) if byte < 99 else alike(0, 99)

    rows = native_module.Rows(step)
    out = np.zeros(4, dtype=np.uint8)
    for _ in range(2):
        rows.walk(tree(native_module), 7, out)
    assert out.tolist() == [0b100011, 0, 0, 0]
    assert asked == [(7, 97), (8, 98), (8, 99)], "asked once for all bytes that are alike"
    assert len(rows) == 2
    rows.clear()
    assert len(rows) == 0
    out[:] = 0
    rows.walk_after(tree(native_module), integers(1, 3), 3, out)
    assert out.tolist() == [0b100110, 0, 0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"byte": integers(97, 98, 99, 256)},
        {"byte": integers(97, 98, 99, -1)},
        {"children": integers(2, 0, 2, 0)},
        {"children": integers(2, 0, 0, 1)},
        {"children": integers(1, 0, 1, 0)},
        {"children": integers(-1, 0, 1, 0)},
        {"children": integers(2_000_000_000, 0, 1, 0)},
        {"children": integers(2, 0, 1)},
        {"token": integers(0, 1, -2, 2)},
        {"token": integers(0, 1, 9, 2)},
        {"alias": integers(9)},
        {"aliased": integers(-1)},
        {"aliased": integers(1, 2)},
        {"roots": 0},
        {"roots": 5},
        {"roots": -1},
        {"size": -1},
        {"byte": np.array([97, 98, 99, 97], dtype=np.int64)},
        {"byte": np.zeros((2, 2), dtype=np.int32)},
        {"byte": integers(97, 0, 98, 0, 99, 0, 97, 0)[::2]},
        {"byte": b"abcd"},
        {"byte": [97, 98, 99, 97]},
        {"roots": "1"},
    ],
)
def test_what_is_no_trie_is_refused(native_module: ModuleType, change: dict[str, Any]) -> None:
    arguments = {
        "byte": integers(97, 98, 99, 97),
        "children": integers(2, 0, 1, 0),
        "token": integers(0, 1, -1, 2),
        "alias": integers(5),
        "aliased": integers(1),
        "roots": 1,
        "size": 9,
    }
    assert native_module.Tree(**arguments) is not None
    with pytest.raises((ValueError, TypeError, BufferError)):
        native_module.Tree(**(arguments | change))


def test_a_trie_is_copied_when_it_is_checked(native_module: ModuleType) -> None:
    children = integers(2, 0, 1, 0)
    copied = native_module.Tree(
        integers(97, 98, 99, 97), children, integers(0, 1, -1, 2), integers(), integers(), 1, 9
    )
    children[:] = 200
    out = np.zeros(2, dtype=np.uint8)
    native_module.Rows(lambda state, byte: alike(1, byte)).walk(copied, 1, out)
    assert out.tolist() == [0b111, 0]


@pytest.mark.parametrize(
    "answer",
    [
        None, 5, (), (1,), (1, b""), (1, b"x" * 31), (1, "x" * 32), ("1", b"x" * 32), (-1, b"x" * 32),
        (1 << 24, b"x" * 32), (1 << 70, b"x" * 32), (1.5, b"x" * 32), [1, b"x" * 32],
    ],
)  # fmt: skip
def test_a_wrong_answer_ends_the_walk(native_module: ModuleType, answer: object) -> None:
    answers = [answer]
    rows = native_module.Rows(lambda state, byte: answers.pop() if answers else alike(1, byte))
    out = np.zeros(2, dtype=np.uint8)
    with pytest.raises((TypeError, ValueError, OverflowError)):
        rows.walk(tree(native_module), 1, out)
    rows.walk(tree(native_module), 1, out)  # and the rows can still be used
    assert out.tolist() == [0b100111, 0]


def test_wrong_arguments_of_a_walk_are_refused(native_module: ModuleType) -> None:
    rows = native_module.Rows(lambda state, byte: alike(1, byte))
    out = np.zeros(2, dtype=np.uint8)
    frozen = np.zeros(2, dtype=np.uint8)
    frozen.flags.writeable = False
    trie = tree(native_module)
    for arguments in (
        (), (trie, 1), (trie, 1, out, out), (None, 1, out), (trie, "1", out), (trie, -1, out),
        (trie, 1 << 40, out), (trie, 1, np.zeros(1, dtype=np.uint8)), (trie, 1, frozen), (trie, 1, None),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, BufferError)):
            rows.walk(*arguments)
    with pytest.raises(TypeError):
        rows.walk(trie, 1, out=out)
    for nodes in ([1, 2], integers(4), integers(-1), np.array([1]), b"\1\0\0\0", None):
        with pytest.raises((TypeError, IndexError, OverflowError)):
            rows.walk_after(trie, nodes, 1, out)
    with pytest.raises(TypeError):
        native_module.Rows(5)
    rows.walk(trie, 1, out)
    assert out.tolist() == [0b100111, 0]


def test_a_step_that_fails_or_comes_back_ends_the_walk(native_module: ModuleType) -> None:
    out = np.zeros(2, dtype=np.uint8)
    trie = tree(native_module)

    def failing(state: int, byte: int) -> tuple[int, bytes]:
        raise GrammarTooLarge("too large", limit="states")

    with pytest.raises(GrammarTooLarge):
        native_module.Rows(failing).walk(trie, 1, out)

    def returning(state: int, byte: int) -> tuple[int, bytes]:
        for again in (
            lambda: rows.walk(trie, 1, out),
            rows.clear,
            lambda: rows.walk_after(trie, integers(0), 1, out),
        ):
            with pytest.raises(RuntimeError):
                again()
        return alike(1, byte)

    rows = native_module.Rows(returning)
    rows.walk(trie, 1, out)
    assert out.tolist() == [0b100111, 0]


def test_rows_are_freed_with_their_cycle(native_module: ModuleType) -> None:
    class Owner:
        def __init__(self) -> None:
            self.rows = native_module.Rows(self.step)

        def step(self, state: int, byte: int) -> tuple[int, bytes]:
            return alike(1, byte)

    owner = Owner()
    owner.rows.walk(tree(native_module), 1, np.zeros(2, dtype=np.uint8))
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None


def test_the_environment_asks_for_the_pure_engine() -> None:
    program = (
        "import sys, types; sys.modules['sgl_constrain._native'] = types.ModuleType('x');"
        "from sgl_constrain.twin import native; print(native())"
    )
    for value, expected in (("1", "False"), ("0", "True"), ("", "True")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"SGL_CONSTRAIN_PURE": value},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


OPTIONS, CHARACTER, SEQUENCE, REPEAT, WORDS, OPAQUE = range(6)
EMPTY = 1  # the expression; continuation 0 is the end


def continuations(module: ModuleType, described: dict[int, Any]) -> tuple[Any, list[tuple[int, int]]]:
    pairs = [(EMPTY, 0)]
    made = module.Continuations(described.__getitem__, lambda size: None, pairs)
    return made, pairs


def test_continuations_begin_with_the_items_that_their_expressions_say(native_module: ModuleType) -> None:
    made, pairs = continuations(
        native_module,
        {
            2: (CHARACTER, 7),
            3: (CHARACTER, 8),
            4: (SEQUENCE, 2, 3),
            5: (OPTIONS, 3, EMPTY),
            6: (REPEAT, 2, 1, EMPTY),  # 2{0,1}
            7: (WORDS, 3, 9, 2, 10, EMPTY),
            8: (OPAQUE,),
            9: (OPTIONS,),
            10: (OPTIONS, 9, 5, 6),
            11: (REPEAT, 2, 0, 6),
            EMPTY: (OPTIONS, EMPTY),
        },
    )
    assert made.closure(0) == (0,)
    two = made.then(2, 0)
    assert made.then(2, 0) == two == 1 and pairs == [(EMPTY, 0), (2, 0)]
    assert made.closure(two) == (7 << 32,)
    sequence = made.closure(made.then(4, 0))
    assert sequence == (7 << 32 | pairs.index((3, 0)),)
    assert made.closure(made.then(5, 0)) == (0, 8 << 32)
    assert made.closure(made.then(6, two)) == (7 << 32, 7 << 32 | two)
    word = made.closure(made.then(7, 0))
    assert word == (8 << 32, 9 << 32 | two, 10 << 32 | pairs.index((EMPTY, 0), 1))
    assert made.closure(made.then(9, 0)) == ()
    assert made.closure(made.then(10, 0)) == (0, 7 << 32, 8 << 32)
    assert made.closure(made.then(11, 0)) == (7 << 32 | pairs.index((6, 0)),)
    unknown = made.then(8, 0)
    assert made.closure(unknown) is None and made.closure(made.then(5, unknown)) is None
    assert made.after((1 << 32 | unknown,)) is None and made.after(((1 << 31) << 32,)) is None
    made.learn(unknown, (5 << 32, 0, 5 << 32))
    assert made.closure(unknown) == (0, 5 << 32)
    edges = ((3 << 1) << 32 | two, 1 << 32 | two, (3 << 1 | 1) << 32 | unknown)
    assert made.after(edges) == (0, 3 << 32 | two, 3 << 32 | unknown, 5 << 32, 7 << 32)
    for number in range(2000):  # the tables grow
        assert made.then(2, made.then(3, number)) < len(pairs)
    assert len(set(pairs[1:])) == len(pairs) - 1 and made.then(2, 0) == two


@pytest.mark.parametrize(
    "description",
    [
        None, (), 5, [CHARACTER, 7], (6,), (-1,), (CHARACTER,), (CHARACTER, -1), (CHARACTER, 1, 2),
        (CHARACTER, "7"), (CHARACTER, 1 << 40), (CHARACTER, 1 << 70), (SEQUENCE, -1), (REPEAT, 2, 1),
        (REPEAT, 2, 1, -1), (WORDS,), (WORDS, -1, 5), (WORDS, -2), (WORDS, -1, -1, 2), (OPTIONS, -5),
        ("1", 2),
    ],
)  # fmt: skip
def test_a_wrong_description_is_refused(native_module: ModuleType, description: object) -> None:
    described = {2: description}
    made, _ = continuations(native_module, described)
    number = made.then(2, 0)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            made.closure(number)
    described[2] = (CHARACTER, 7)
    assert made.closure(number) == (7 << 32,)


def test_wrong_arguments_of_continuations_are_refused(native_module: ModuleType) -> None:
    made, pairs = continuations(native_module, {2: (CHARACTER, 7)})
    for call in (
        lambda: made.then(2, 1), lambda: made.then(2, -1), lambda: made.then(-1, 0),
        lambda: made.then(1 << 40, 0), lambda: made.then("2", 0), lambda: made.then(2),
        lambda: made.closure(1), lambda: made.closure(-1),
        lambda: made.closure(None), lambda: made.closure(1 << 70), lambda: made.learn(1, ()),
        lambda: made.learn(0, [0]), lambda: made.learn(0, (None,)), lambda: made.learn(0, (1 << 70,)),
        lambda: made.after([0]), lambda: made.after((None,)), lambda: made.after((1 << 32 | 99,)),
        lambda: native_module.Continuations(None, print, [0]),
        lambda: native_module.Continuations(print, print, []),
        lambda: native_module.Continuations(print, print, (0,)),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, IndexError, OverflowError)):
            call()
    assert made.then(2, 0) == 1 and made.closure(0) == (0,) and len(pairs) == 2


def test_continuations_may_be_asked_while_they_ask(native_module: ModuleType) -> None:
    described: dict[int, tuple[int, ...]] = {n: (SEQUENCE, n + 1, 1000) for n in range(2, 60)}
    described |= {60: (CHARACTER, 7), 1000: (CHARACTER, 8)}

    def describe(expression: int) -> tuple[int, ...]:
        if expression < 60:
            made.closure(made.then(expression + 1, 0))  # the tables move meanwhile
        return described[expression]

    checked: list[int] = []
    pairs = [(EMPTY, 0)]
    made = native_module.Continuations(describe, checked.append, pairs)
    items = made.closure(made.then(2, 0))
    assert len(items) == 1 and items[0] >> 32 == 7 and checked

    def failing(size: int) -> None:
        raise GrammarTooLarge("too large", limit="items")

    tight = native_module.Continuations(described.__getitem__, failing, [(EMPTY, 0)])
    with pytest.raises(GrammarTooLarge):
        tight.closure(tight.then(2, 0))
