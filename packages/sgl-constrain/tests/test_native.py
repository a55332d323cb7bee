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
from sgl_constrain.schema.strings import escape
from sgl_constrain.texts import TEXTS
from sgl_constrain.twin import ENGINE, native
from sgl_constrain.utf8 import Edge, packed
from sgl_constrain.ways import Ways

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
PATTERNS = [
    r"(\w+ ){2,4}\w+\.", r".{1,100}", r"[^\x00-\x7f]+", r"(?i)straße.*", r"\s{0,20}x", r"(?!.*foo).*",
    r"[a-z0-9-]{0,30}[a-z0-9](\.[a-z]{2,9})?", r"([A-Z0-9]{4} ?){1,5}", r"[\w ,.!🌀-🫿]{1,40}[;:]",
    r"((\w{1,10} ){1,8}\w{1,10}[.!?] ){1,20}", r'"([^"\\]|\\.){3,40}"', r"([^/:]+/)*[^/:]*",
]  # fmt: skip


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
    assert not native() and isinstance(pure[0]._ways, Ways)
    monkeypatch.setattr(ENGINE, "module", native_module)
    twins = grammars(smollm2)
    assert native() and not isinstance(twins[0]._ways, Ways)
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


def tree(module: ModuleType, size: int = 9) -> Any:
    """a -> token 0, ab -> 1, ac; aca -> 2. Token 5 is 1 again."""
    nodes = integers(97, 98, 99, 97), integers(2, 0, 1, 0), integers(0, 1, -1, 2)
    return module.Tree(*nodes, integers(5), integers(1), 1, size)


def walking(module: ModuleType) -> tuple[Any, Any, int]:
    """States that read a, ab and aca with the tree's bytes, and the state before."""
    host = Host(module, {2: (WORDS, -1, 97, 3), 3: (OPTIONS, EMPTY, 4, 5), 4: (WORDS, -1, 98, EMPTY)} | {
        5: (WORDS, -1, 99, 6), 6: (WORDS, -1, 97, EMPTY), EMPTY: (OPTIONS, EMPTY),
    })  # fmt: skip
    host.answers["edges"] = lambda head: packed([Edge(1 << head, 0, True)])
    rest = host.continuations.then(3, 0)
    return host, host.states, int(host.states.number([97 << 32 | rest]))


def test_a_walk_sets_the_bits_of_what_can_be_reached(native_module: ModuleType) -> None:
    host, states, start = walking(native_module)
    out = np.zeros(4, dtype=np.uint8)
    for _ in range(2):
        tree(native_module).walk(states, start, out)
    assert out.tolist() == [0b100111, 0, 0, 0]
    assert [a for a in host.asked if a[0] == "edges"] == [("edges", n) for n in (97, 98, 99)], "asked once"
    out[:] = 0
    tree(native_module).walk(states, states.step(start, 97), out)
    assert out.tolist() == [0, 0, 0, 0], "the tree begins with a"


@pytest.mark.parametrize(
    "change",
    [
        {"byte": integers(97, 98, 99, 256)},
        {"byte": integers(97, 98, 99, -1)},
        {"byte": integers(97, 99, 98, 97)},
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
    _, states, start = walking(native_module)
    copied.walk(states, start, out)
    assert out.tolist() == [0b111, 0]


def test_wrong_arguments_of_a_walk_are_refused(native_module: ModuleType) -> None:
    _, states, start = walking(native_module)
    out = np.zeros(2, dtype=np.uint8)
    frozen = np.zeros(2, dtype=np.uint8)
    frozen.flags.writeable = False
    trie = tree(native_module)
    for arguments in (
        (), (states, 1), (states, 1, out, out), (None, 1, out), (trie, 1, out), (states, "1", out),
        (states, -1, out), (states, 1 << 40, out), (states, 99, out), (states, 1, frozen), (states, 1, None),
        (states, 1, np.zeros(1, dtype=np.uint8)),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, OverflowError, BufferError)):
            trie.walk(*arguments)
    with pytest.raises(TypeError):
        trie.walk(states, 1, out=out)
    with pytest.raises(TypeError):
        trie.fill(states, 1, out, 1)
    out[:] = 0
    trie.walk(states, start, out)
    assert out.tolist() == [0b100111, 0]


def test_a_question_that_fails_or_comes_back_ends_the_walk_or_not(native_module: ModuleType) -> None:
    host, states, start = walking(native_module)
    out = np.zeros(2, dtype=np.uint8)
    trie = tree(native_module)
    good = host.answers["edges"]

    def failing(head: int) -> bytes:
        raise GrammarTooLarge("too large", limit="states")

    host.answers["edges"] = failing
    with pytest.raises(GrammarTooLarge):
        trie.walk(states, start, out)

    def returning(head: int) -> bytes:
        host.answers["edges"] = good
        trie.walk(states, start, np.zeros(2, dtype=np.uint8))
        return bytes(good(head))

    host.answers["edges"] = returning
    trie.walk(states, start, out)
    assert out.tolist() == [0b100111, 0]


BESIDE = [  # texts that something is taken off of, or that must be read in two ways at once
    {"patternProperties": {"_count$": {"type": "integer"}, "^x-": {}}, "additionalProperties": {"const": 1}},
    {"properties": {"name": {}, "names": {"type": "null"}}, "additionalProperties": {"type": "string"}},
    {"propertyNames": {"pattern": "^/.*[^/]$", "not": {"enum": ["/a", "/ab"]}}, "minProperties": 1},
    {"type": "string", "pattern": "é.*日", "not": {"pattern": "^a"}},
    {"type": "string", "pattern": "^[^ ]*$", "format": "email", "maxLength": 60},
]  # fmt: skip


def check_filled(grammar: Grammar, rng: random.Random, walks: int) -> None:
    """Along random texts."""
    trie, states, vocabulary = grammar._ways._tree, grammar._automaton.table, grammar.vocabulary
    for _ in range(walks):
        state = grammar.start
        for _ in range(12):
            filled, walked = np.zeros((2, vocabulary.words * 4), dtype=np.uint8)
            trie.fill(states, state, filled)
            trie.walk(states, state, walked)
            assert np.array_equal(filled, walked)
            allowed = np.flatnonzero(np.unpackbits(walked, bitorder="little")).tolist()
            if not allowed:
                break
            state = grammar.step(state, rng.choice(allowed))


def test_what_is_filled_is_what_a_walk_finds(
    smollm2: Vocabulary, native_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINE, "module", native_module)
    compiler = Compiler(smollm2)
    made = [compiler.json_schema(schema) for schema in [*SCHEMAS, *BESIDE]]
    patterns = r"(?!.*foo|x)[^\n]*", r"(?=.*_n)(?!ab).*", r"(?!é)\w*", "(the|then)+ x"
    made += [compiler.regex(pattern) for pattern in (*PATTERNS, *patterns)]
    rng = random.Random(7)
    for grammar in made:
        check_filled(grammar, rng, 3)


def all_texts(letters: str, most: int) -> list[bytes]:
    """Of up to so many of these letters, the short ones first."""
    texts = [b""]
    for start in texts:
        if len(start.decode()) < most:
            texts += [start + letter.encode() for letter in letters]
    return texts


@pytest.mark.parametrize(
    "pattern",
    [
        '(?=.*é)[^"]*"', '[^"]*é[^"]*日"', '(?!.*ab)[^"]*"', '(?!.*é)[^"]*"', '[^"]{0,30}"', "([a-z]{3})*é",
        '([a-zé]{4})*"', '(?=.*日).{3,40}"', '(?!b)[^"]{0,28} b', '(?!.*(é|b)a)(.{3})*"', '[ -~]{3}[^"]*é"',
        '([a-z]{2,9} ){0,9}"', '(?=.*b)([a-z]{29})*"', '[a-z ]{26}([^"][a-z]{3})*"', r"(\w{5}|[a-z ]{4})*日",
        r'(?=[^b]*b[^b]*$)[^"]*|"',
    ],
)  # fmt: skip
def test_classes_are_left_where_texts_leave_them(
    pattern: str, native_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINE, "module", native_module)
    texts = all_texts('abé日" ', 5)
    long = [text * 9 + b'"' for text in texts[1:200]]
    grammar = Compiler(Vocabulary([*texts, *long, b"\xc3", b"\xa9b", b"b\xe6\x97"], eos=[0])).regex(pattern)
    check_filled(grammar, random.Random(pattern), 6)


@pytest.mark.parametrize(
    "names",
    [
        ("a", "ab", "abab"),
        ("ab", "b", "bab"),
        ("é", "éb", "日"),
        ('"', '"a', "\\"),
        ("",),
        ("a" * 40, "a" * 41, "b"),
        ("a b", "a", " "),
    ],
)
@pytest.mark.parametrize(
    "key", [{}, {"pattern": "b$"}, {"pattern": "^b*(ab)?$"}, {"maxLength": 60}, {"minLength": 2}]
)
def test_keys_without_a_name_are_told_apart_from_those_with_one(
    names: tuple[str, ...], key: dict[str, Any], native_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINE, "module", native_module)
    texts = all_texts('abé日": ', 4)
    long = [text * n + end for text in texts[1:60] for n in (1, 12) for end in (b'":', b'":1', b'": n')]
    escaped = [
        start + b"\\" + end for start in texts[:60] for end in (b"", b'"', b'""', b"\\", b'\\":', b"n")
    ]
    vocabulary = Vocabulary(
        [*texts, *long, *escaped, b"{", b'{"', b"1", b"null", b"}", b"\xc3", b"\xa9b"], eos=[0]
    )
    schema = {"properties": {name: {"type": "null"} for name in names}, "additionalProperties": {"const": 1}}
    grammar = Compiler(vocabulary).json_schema(schema | ({"propertyNames": key} if key else {}))
    rng = random.Random(str(names))
    check_filled(grammar, rng, 8)
    trie, states = grammar._ways._tree, grammar._automaton.table
    for name in names:
        for end in range(len(escape(name)) + 1):
            state = grammar.step_bytes(grammar.start, b'{"' + escape(name)[:end])
            filled, walked = np.zeros((2, vocabulary.words * 4), dtype=np.uint8)
            trie.fill(states, state, filled)
            trie.walk(states, state, walked)
            assert np.array_equal(filled, walked)


def table(*rows: dict[int, int]) -> np.ndarray[Any, Any]:
    """Of a class: state 0 has left it, 1 is between two characters."""
    made = np.zeros((len(rows) + 1, 256), dtype=np.uint16)
    for number, row in enumerate(rows, 1):
        for byte, target in row.items():
            made[number, byte] = target
    return made


def test_usual_classes_are_learnt_before_the_first_mask(native_module: ModuleType) -> None:
    _, states, start = walking(native_module)
    trie = tree(native_module)
    good, edges = table({97: 1}), packed([Edge(1 << 0xC3, 5, False)])
    for wrong in (
        (edges, good.astype(np.int16)), (edges, good[:, :255].copy()), (edges, table({97: 2})),
        (edges, table()), (edges, None), (edges[1:], good), (None, good), (edges,),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, BufferError)):
            trie.learn(*wrong)
    for _ in range(6):
        trie.learn(edges, good)
    with pytest.raises(ValueError, match="6"):
        trie.learn(edges, good)
    other = tree(native_module)
    out = np.zeros(2, dtype=np.uint8)
    other.fill(states, start, out)
    assert out.tolist() == [0b100111, 0]
    with pytest.raises(ValueError, match="before"):
        other.learn(edges, good)


def test_masks_are_told_by_the_words_in_which_they_differ(native_module: ModuleType) -> None:
    rng = np.random.default_rng(3)
    for size in (4, 60, 64, 1000, 5000):
        trie = tree(native_module, 8 * size)
        base = rng.integers(0, 256, size, dtype=np.uint8)
        for changes in (0, 1, 7, 190):
            mask, sparse = base.copy(), np.zeros(size, dtype=np.uint8)
            places = rng.integers(0, size, changes)
            mask[places] ^= 5
            sparse[places] = 3
            for one, other in ((mask, base), (sparse, None)):
                words, out = trie.differing(one, other), np.full((3, size // 4), 9, dtype=np.int32)
                assert len(words) % 12 == 0 and len(words) <= 12 * changes
                for row in (0, -1):
                    trie.restore((words, other), out, row)
                    assert np.array_equal(out[row].view(np.uint8), one)
                assert (out[1] == 9).all()
            assert trie.key(sparse) == trie.differing(sparse, None)
    assert trie.differing(mask, base[::-1].copy()) is None, "that is much"
    words, out = trie.differing(mask, base), np.zeros((2, 1250), dtype=np.int32)
    kept = (words, base)
    for arguments in (
        (kept, out[:, 1:], 0), (kept, out.view(np.int16), 0), (kept, out.astype(np.int64), 0),
        (kept, out[0], 0),
        ((words, None), out[:, :9], 0), ((words[1:], base), out, 0), (kept, out),
        ((words, out[0, ::2]), out, 0),
        (kept, out[:, ::2], 0), ((None, base), out, 0), (kept, out.tobytes(), 0),
        (words, out, 0), ((words,), out, 0),
        (kept, out, 2), (kept, out, -3), (kept, out, "0"), (kept, out, 1 << 70), ((words, base[:-4]), out, 0),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, BufferError, IndexError)):
            trie.restore(*arguments)
    for arguments in ((mask, base[1:]), (mask,), (None, mask), (mask, mask[::2])):
        with pytest.raises((TypeError, ValueError, BufferError)):
            trie.differing(*arguments)
    for argument in (None, mask[::2]):
        with pytest.raises((TypeError, ValueError, BufferError)):
            trie.key(argument)


def test_a_key_tells_masks_apart(native_module: ModuleType) -> None:
    trie = tree(native_module)
    mask = np.random.default_rng(3).integers(0, 256, 5000, dtype=np.uint8)
    seen = {trie.key(mask), trie.key(mask[:4999].copy()), trie.key(np.zeros(5000, dtype=np.uint8))}
    for byte in range(0, 5000, 7):
        changed = mask.copy()
        changed[byte] ^= 1 << byte % 8
        seen.add(trie.key(changed))
    assert len(seen) == 3 + len(range(0, 5000, 7)) and trie.key(mask.copy()) in seen


def test_masks_with_one_key_are_told_apart(
    smollm2: Vocabulary, native_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ENGINE, "module", native_module)
    texts = [b"", b"a", b"ab ", b"ab c!"]
    expected = Compiler(smollm2).regex(r"[a-z]* ?[.!]*|\d\w*")
    grammar = Compiler(smollm2).regex(r"[a-z]* ?[.!]*|\d\w*")
    monkeypatch.setattr(grammar._ways, "key", lambda mask: bytes(32))
    for text in texts * 2:
        one, other = (g.mask(g.step_bytes(g.start, text)) for g in (grammar, expected))
        assert np.array_equal(one, other)
    assert len(grammar.masks()) == len(expected.masks()) > 1
    assert grammar.mask(grammar.start) is not (held := expected.mask(expected.start))
    assert held is expected.mask(expected.start), "the same object, as long as it is held"


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


OPTIONS, CHARACTER, SEQUENCE, REPEAT, WORDS, PRODUCT, LISTED = range(7)
EMPTY = 1  # the expression; continuation 0 is the end


def continuations(module: ModuleType, described: dict[int, Any]) -> Any:
    return module.Continuations(described.__getitem__, lambda size: None)


def test_continuations_begin_with_the_items_that_their_expressions_say(native_module: ModuleType) -> None:
    made = continuations(
        native_module,
        {
            2: (CHARACTER, 7),
            3: (CHARACTER, 8),
            4: (SEQUENCE, 2, 3),
            5: (OPTIONS, 3, EMPTY),
            6: (REPEAT, 2, 1, EMPTY),  # 2{0,1}
            7: (WORDS, 3, 9, 2, 10, EMPTY),
            8: (PRODUCT, 1, 2, 3),
            9: (OPTIONS,),
            10: (OPTIONS, 9, 5, 6),
            11: (REPEAT, 2, 0, 6),
            EMPTY: (OPTIONS, EMPTY),
        },
    )
    assert made.closure(0) == (0,)
    two = made.then(2, 0)
    assert made.then(2, 0) == two == 1 and list(made) == [(EMPTY, 0), (2, 0)]
    assert made.closure(two) == (7 << 32,)
    sequence = made.closure(made.then(4, 0))
    assert sequence == (7 << 32 | list(made).index((3, 0)),)
    assert made.closure(made.then(5, 0)) == (0, 8 << 32)
    assert made.closure(made.then(6, two)) == (7 << 32, 7 << 32 | two)
    word = made.closure(made.then(7, 0))
    assert word == (8 << 32, 9 << 32 | two, 10 << 32)
    assert made.closure(made.then(9, 0)) == ()
    assert made.closure(made.then(10, 0)) == (0, 7 << 32, 8 << 32)
    assert made.closure(made.then(11, 0)) == (7 << 32 | list(made).index((6, 0)),)
    unknown = made.then(8, 0)
    with pytest.raises(ValueError, match="there are none"):  # no states
        made.closure(unknown)
    for number in range(2000):  # the tables grow
        assert made.then(2, made.then(3, number)) < len(made)
    assert len(set(list(made)[1:])) == len(made) - 1 and made.then(2, 0) == two


@pytest.mark.parametrize(
    "description",
    [
        None, (), 5, [CHARACTER, 7], (7,), (-1,), (CHARACTER,), (CHARACTER, -1), (CHARACTER, 1, 2),
        (CHARACTER, "7"), (CHARACTER, 1 << 40), (CHARACTER, 1 << 70), (SEQUENCE, -1), (REPEAT, 2, 1),
        (REPEAT, 2, 1, -1), (WORDS,), (WORDS, -1, 5), (WORDS, -2), (WORDS, -1, -1, 2), (OPTIONS, -5), (6, 1),
        ("1", 2), (PRODUCT, 1, 2), (PRODUCT, 1, 2, -3), (LISTED,), (LISTED, 100, 2, 3, 4, 5, 1, 1, 7, 8),
        (LISTED, 100, 2, 3, 4, 5, 1, 2, 7, 8, 0), (LISTED, 1 << 31, 2, 3, 4, 5, 1, 1, 7, 8, 0), (12, 1),
    ],
)  # fmt: skip
def test_a_wrong_description_is_refused(native_module: ModuleType, description: object) -> None:
    described = {2: description}
    made = continuations(native_module, described)
    number = made.then(2, 0)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            made.closure(number)
    described[2] = (CHARACTER, 7)
    assert made.closure(number) == (7 << 32,)


def test_wrong_arguments_of_continuations_are_refused(native_module: ModuleType) -> None:
    made = continuations(native_module, {2: (CHARACTER, 7)})
    for call in (
        lambda: made.then(2, 1), lambda: made.then(2, -1), lambda: made.then(-1, 0),
        lambda: made.then(1 << 40, 0), lambda: made.then("2", 0), lambda: made.then(2),
        lambda: made.closure(1), lambda: made.closure(-1),
        lambda: made.closure(None), lambda: made.closure(1 << 70),
        lambda: native_module.Continuations(None, print), lambda: native_module.Continuations(print, 5),
        lambda: made[2], lambda: made[-3], lambda: made["0"],
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, IndexError, OverflowError)):
            call()
    assert made.then(2, 0) == 1 and made.closure(0) == (0,) and len(made) == 2


def test_continuations_may_be_asked_while_they_ask(native_module: ModuleType) -> None:
    described: dict[int, tuple[int, ...]] = {n: (SEQUENCE, n + 1, 1000) for n in range(2, 60)}
    described |= {60: (CHARACTER, 7), 1000: (CHARACTER, 8)}

    def describe(expression: int) -> tuple[int, ...]:
        if expression < 60:
            made.closure(made.then(expression + 1, 0))  # the tables move meanwhile
        return described[expression]

    made = native_module.Continuations(describe, lambda size: None)
    items = made.closure(made.then(2, 0))
    assert len(items) == 1 and items[0] >> 32 == 7

    def failing(size: int) -> None:
        raise GrammarTooLarge("too large", limit="items")

    many = {2: (OPTIONS, *range(3, 200))} | {n: (CHARACTER, n) for n in range(3, 200)}
    tight = native_module.Continuations(many.__getitem__, failing)
    with pytest.raises(GrammarTooLarge):
        tight.closure(tight.then(2, 0))


QUESTIONS = ("edges", "counts", "widest", "admit", "shortest", "distance", "uncounted")


class Host:
    """Head h takes bytes h and h + 1, and then is complete; head 20 goes on as 21. What is asked is noted."""

    def __init__(self, module: ModuleType, described: dict[int, Any], **other: Any) -> None:
        self.continuations = continuations(module, described)
        self.asked: list[Any] = []
        self.answers = dict.fromkeys(QUESTIONS)
        questions = [getattr(self, name) for name in self.answers]
        self.answers |= other
        self.states = module.States(self.continuations, *questions, 1000, 5000)

    def _note(self, name: str, *arguments: Any) -> Any:
        self.asked.append((name, *arguments))
        answer = self.answers[name]
        return answer(*arguments) if callable(answer) else answer

    def edges(self, head: int) -> Any:
        answer = self._note("edges", head)
        if answer is not None:
            return answer
        return packed([Edge(3 << head % 200, 21, False) if head == 20 else Edge(3 << head % 200, 0, True)])

    def counts(self, expression: int) -> Any:
        return self._note("counts", expression) or ()

    def widest(self, items: tuple[int, ...]) -> Any:
        return self._note("widest", items) or items

    def admit(self, size: int, items: int) -> None:
        self._note("admit", size, items)

    def shortest(self, expression: int) -> Any:
        return 1 if (answer := self._note("shortest", expression)) is None else answer

    def distance(self, head: int) -> Any:
        return 1 if (answer := self._note("distance", head)) is None else answer

    def uncounted(self, expression: int, most: int) -> Any:
        return self._note("uncounted", expression, most)


def test_the_heads_of_a_text_are_asked_for_once(native_module: ModuleType) -> None:
    host = Host(native_module, {2: (CHARACTER, 8)}, edges=b"name")
    states = host.states
    after = host.continuations.then(2, 0)
    state = states.number([TEXTS << 32 | after])
    for i, byte in enumerate(b"name"):
        assert states.begins(state) == 1 << byte and states.step(state, byte + 1) == 0
        assert states[state] == ((TEXTS + i) << 32 | after,)
        state = states.step(state, byte)
    assert states[state] == (8 << 32,)
    assert [a for a in host.asked if a[0] == "edges"] == [("edges", TEXTS)]
    product = states.product_head(False, states.number([TEXTS << 32]), 0)
    assert states.is_live(product) and states.farthest() == 4, "its bytes are counted"


@pytest.mark.parametrize("text", [b"", None, "ab", b"abc"])
def test_a_head_that_is_no_text_is_refused(native_module: ModuleType, text: Any) -> None:
    host = Host(native_module, {})
    host.edges = lambda head: text  # type: ignore[method-assign]
    questions = [getattr(host, name) for name in QUESTIONS]
    states = native_module.States(host.continuations, *questions, 9, 9)
    state = states.number([((1 << 30) - 2) << 32])  # two bytes before the heads of products
    for _ in range(2):
        with pytest.raises((ValueError, TypeError)):
            states.step(state, 97)


def test_states_step_along_the_edges_of_their_items(native_module: ModuleType) -> None:
    host = Host(native_module, {2: (CHARACTER, 30), 3: (CHARACTER, 31)})
    states, made = host.states, host.continuations
    two, three = made.then(2, 0), made.then(3, 0)
    start = states.number({20 << 32 | two, 21 << 32 | three})
    assert start == 2 and host.states[2] == (20 << 32 | two, 21 << 32 | three)
    assert states.number([21 << 32 | three, 20 << 32 | two]) == start and states.number(()) == 0
    assert states.begins(start) == 7 << 20 and states.begins(0) == states.begins(1) == 0
    one = states.step(start, 20)
    assert host.states[one] == (21 << 32 | two,)
    assert host.states[states.step(start, 21)] == (21 << 32 | two, 31 << 32)
    assert host.states[states.step(start, 22)] == (31 << 32,)
    assert states.step(start, 23) == states.step(0, 20) == states.step(1, 20) == 0
    assert {mask: host.states[to] for mask, to in states.moves(start)} == {
        1 << 20: (21 << 32 | two,), 1 << 21: (21 << 32 | two, 31 << 32), 1 << 22: (31 << 32,),
    }  # fmt: skip
    assert states.moves(start) is states.moves(start) and states.moves(0) == states.moves(1) == ()
    assert states.moves_on(start, 1 << 20 | 1 << 90) == ((1 << 20, one),)
    ended = states.step(states.step(one, 21), 30)
    assert host.states[ended] == (0,) and ended != 1 and states.moves(ended) == ()
    assert states.held() == sum(map(len, list(states)[2:]))


def test_products_read_two_states_at_once(native_module: ModuleType) -> None:
    host = Host(native_module, {2: (CHARACTER, 30), 3: (CHARACTER, 31)})
    states, made = host.states, host.continuations
    two, three = made.then(2, 0), made.then(3, 0)
    left, right = states.number([20 << 32 | two, 25 << 32]), states.number([20 << 32 | three])
    for both, live in ((True, True), (False, True)):
        head = states.product_head(both, left, right)
        assert states.product_head(both, left, right) == head and states.product(head) == (both, left, right)
        assert states.is_live(head) is live
    assert not states.is_live(states.product_head(True, left, 0))
    assert not states.is_live(states.product_head(False, left, left))
    assert states.farthest() > 0
    state = states.number([states.product_head(True, left, right) << 32 | two])
    assert states.begins(state) == 3 << 20
    after = states.step(state, 20)
    [item] = host.states[after]
    assert states.product(item >> 32) == (True, states.step(left, 20), states.step(right, 20))
    end = states.step(states.step(after, 21), 31)
    assert host.states[end] == host.states[states.number([30 << 32])], "both read 31, and then comes the rest"
    state = states.number([states.product_head(False, left, right) << 32 | two])
    assert states.step(state, 25) == states.number([30 << 32])
    after = states.step(states.step(states.step(state, 20), 21), 30)
    assert after == states.number([30 << 32]), "30 is what only the left side reads"
    everything = states.number([33 << 32])
    states.everything(everything)
    beside = states.number([40 << 32 | two])
    head = states.product_head(
        True, states.number([40 << 32 | two, 50 << 32 | two]), states.number([40 << 32])
    )
    assert beside and not states.is_live(head)
    for call in (
        lambda: states.product(5), lambda: states.product((1 << 30) + 99), lambda: states.product("x"),
        lambda: states.product_head(True, left, 999), lambda: states.product_head(True, -1, 0),
        lambda: states.is_live(7), lambda: states.is_live((1 << 30) + 99), lambda: states.everything(999),
        lambda: states.begins(states.number([(1 << 30) + 99 << 32])),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            call()


def test_products_of_expressions_begin_with_their_items(native_module: ModuleType) -> None:
    described = {2: (CHARACTER, 10), 3: (CHARACTER, 11), 4: (OPTIONS, EMPTY, 2), 5: (OPTIONS, EMPTY, 3)}
    described |= {6: (PRODUCT, 1, 4, 5), 7: (PRODUCT, 0, 4, 3), 8: (PRODUCT, 0, 2, 9), 9: (OPTIONS,)}
    described |= {10: (PRODUCT, 1, 2, 9)}
    host = Host(native_module, described)
    closure, then = host.continuations.closure, host.continuations.then
    rest = then(2, 0)
    [after, both] = closure(then(6, rest))
    assert after == 10 << 32 and both & 0xFFFFFFFF == rest, "both may be empty"
    assert host.states.product(both >> 32) == (
        True,
        *[host.states.number(closure(then(e, 0))) for e in (4, 5)],
    )
    [after, left] = closure(then(7, rest))
    assert after == 10 << 32 and not host.states.product(left >> 32)[0]
    assert closure(then(8, rest)) == (10 << 32 | rest,), "nothing is taken away"
    assert closure(then(10, rest)) == (), "it never finishes"
    described |= {n: (PRODUCT, 0, n + 1, 2) for n in range(20, 20_000)}
    with pytest.raises(RecursionError):
        closure(then(20, 0))


@pytest.mark.parametrize("others", [0, 1])
def test_the_points_of_a_list_are_told_at_once(native_module: ModuleType, others: int) -> None:
    """Members a, b! and c, of which b is required; 100 is another member."""
    colon, comma, close, alone = range(50, 54)
    members = [(TEXTS, 60, 0), (TEXTS + 10, 61, 1), (TEXTS + 20, 62, 0)]
    told = [number for member in members for number in member]
    described = {2: (LISTED, 100, colon, comma, close, alone, others, 3, *told)}
    described |= {n: (CHARACTER, n) for n in (colon, comma, close, alone, 60, 61, 62, 100)}
    asked: list[int] = []
    made = native_module.Continuations(lambda e: asked.append(e) or described[e], lambda size: None)
    end = made.then(60, 0)

    def after(item: int) -> tuple[int, ...]:
        return tuple(made.closure(item & 0xFFFFFFFF))

    def heads(items: tuple[int, ...]) -> list[int]:
        return [item >> 32 for item in items]

    start = made.closure(made.then(2, end))
    assert heads(start) == [TEXTS, TEXTS + 10], "up to the one that is required"
    [value] = after(after(start[0])[0])
    assert value >> 32 == 60 and heads(after(start[0])) == [colon]
    [more] = after(value)
    assert more >> 32 == comma, "the list may not end yet"
    assert heads(after(more)) == [TEXTS + 10]
    last = after(after(after(after(more)[0])[0])[0])
    assert heads(last) == [comma, *[comma] * others, close]
    keys = {head for item in last if item >> 32 == comma for head in heads(after(item))}
    assert keys == {TEXTS + 20, *[100] * others}
    assert [after(item) for item in last if item >> 32 == close] == [made.closure(end)]
    assert not {e for e in asked if e > 100}, "points are not asked for"
    described[3] = (LISTED, 200, colon, comma, close, alone, others, 1, TEXTS, 60, 0)
    described[200] = (CHARACTER, 100)
    assert heads(made.closure(made.then(3, end))) == [alone, *[100] * others, TEXTS]


def test_counts_that_no_token_reaches_are_taken_off(native_module: ModuleType) -> None:
    described = {10: (2, 0, 90), 11: (2, 0, 5), 13: (2, 0, 100)}
    host = Host(native_module, {}, counts=lambda expression: described.get(expression, ()))
    states, then = host.states, host.continuations.then
    state = states.number([7 << 32 | then(10, then(11, 0)), 8 << 32])
    host.answers["uncounted"] = 12
    simpler = states.unbounded(state, 20)
    assert host.states[simpler] == (7 << 32 | then(12, then(11, 0)), 8 << 32)
    assert states.unbounded(state, 90) == state and states.unbounded(simpler, 20) == simpler
    assert [asked[1:] for asked in host.asked if asked[0] == "uncounted"] == [(10, 20)]
    large = states.number([7 << 32 | then(13, 0)])
    for pair, told in (
        ((True, state, state), True), ((True, state, large), False), ((False, state, large), True),
        ((False, large, state), False),
    ):  # fmt: skip
        product = states.number([states.product_head(*pair) << 32])
        assert states.unbounded(product, 20) == (product if told else None)
    assert states.unbounded(0, 20) == 0 and states.unbounded(1, 20) == 1
    for answer in (-1, 1 << 40, None, "x"):
        host.answers["uncounted"] = answer
        with pytest.raises((TypeError, ValueError, OverflowError)):
            states.unbounded(state, 30)
    for call in (lambda: states.unbounded(state), lambda: states.unbounded(999, 1),
                 lambda: states.unbounded(0, -1), lambda: states.unbounded(0, "1")):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            call()


def test_states_drop_items_with_narrower_counts(native_module: ModuleType) -> None:
    counts = {10: (2, 0, 3), 11: (2, 1, 5), 12: (2, 0, 9), 13: (2, 1, -1), 14: (3, 0, 3)}
    host = Host(native_module, {}, counts=lambda expression: counts.get(expression, ()))
    then = host.continuations.then
    items = {n: 7 << 32 | then(20, then(n, 0)) for n in counts}

    def kept(*numbers: int) -> set[int]:
        left = host.states[host.states.number([items[n] for n in numbers])]
        return {n for n in numbers if items[n] in left}

    assert kept(10, 12) == kept(12, 10) == kept(11, 12) == {12}
    assert kept(10, 11) == {10, 11} and kept(11, 13) == {13} and kept(12, 13) == {12, 13}
    assert kept(10, 14) == {10, 14}, "of different bodies"
    host.answers["widest"] = lambda given: [given[0]]
    assert kept(10, 11, 12, 14) == {10, 14}
    deep = [then(10, then(n, 0)) for n in (11, 12)]
    for _ in range(8):
        deep = [then(10, c) for c in deep]
    left = host.states[host.states.number([7 << 32 | c for c in deep])]
    assert len(left) == 2, "counts far out are not compared"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("edges", None), ("edges", b"x" * 39), ("edges", "x" * 40), ("edges", b"\0" * 40 * 257),
        ("counts", (1,)), ("counts", (1, 2, 1 << 31)), ("counts", (-1, 2, 3)), ("counts", 5),
        ("widest", (7 << 32 | 99,)), ("widest", 5), ("widest", (None,)),
    ],
)  # fmt: skip
def test_wrong_answers_to_states_are_refused(native_module: ModuleType, question: str, answer: Any) -> None:
    host = Host(native_module, {2: (CHARACTER, 30)})
    rest = host.continuations.then(2, 0)
    counts = {n: (2, n, n) for n in (10, 11, 12)}
    host.answers |= {
        "edges": packed([Edge(1, 0, True)]),
        "counts": lambda expression: counts.get(expression, ()),
    }
    good = host.answers.copy()
    host.answers[question] = answer if question != "counts" else lambda expression: answer
    if question == "edges" and answer is None:
        host.edges = lambda head: None  # type: ignore[method-assign]
        questions = [getattr(host, name) for name in QUESTIONS]
        host.states = native_module.States(host.continuations, *questions, 9, 9)
    items = [7 << 32 | host.continuations.then(n, 0) for n in counts]

    def use() -> int:
        return int(host.states.step(host.states.number([9 << 32 | rest]), 0) + host.states.number(items))

    for _ in range(2):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            use()
    if question != "edges":
        host.answers |= good
        assert use() > 1, "nothing was left half-done"


def test_wrong_arguments_of_states_are_refused(native_module: ModuleType) -> None:
    host = Host(native_module, {})
    states = host.states
    for call in (
        lambda: states.number(5), lambda: states.number([-1]), lambda: states.number([7 << 32 | 1]),
        lambda: states.number([None]), lambda: states.step(2, 0), lambda: states.step(-1, 0),
        lambda: states.step(0, 256), lambda: states.step(0, -1), lambda: states.step(0),
        lambda: states.step("0", 0), lambda: states.begins(2), lambda: states.moves(2),
        lambda: states.moves_on(2, 1), lambda: states.moves_on(0, "1"), lambda: states.moves_on(0),
        lambda: native_module.States(*[print] * 8, 9, 9),
        lambda: native_module.States(host.continuations, *[print] * 6, None, 9, 9),
        lambda: states[2], lambda: states[-3], lambda: states["0"], lambda: states.accepts(2),
        lambda: states.start_clock("soon"),
        lambda: tree(native_module).walk(states, 2, np.zeros(2, dtype=np.uint8)),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, IndexError, OverflowError)):
            call()
    assert len(host.states) == 2 and list(host.states) == [(), (0,)]


def test_states_ask_before_a_limit_is_passed(native_module: ModuleType) -> None:
    def failing(size: int, items: int) -> None:
        if len(host.states) >= 1000 or items > 5000:
            raise GrammarTooLarge("too large", limit="states")

    host = Host(native_module, {}, admit=failing)
    for n in range(2, 1000):
        assert host.states.number([n << 32]) == n
    for _ in range(2):
        with pytest.raises(GrammarTooLarge):
            host.states.number([2000 << 32])
    assert len(host.states) == 1000 and host.states.number([5 << 32]) == 5
    host = Host(native_module, {}, admit=failing)
    with pytest.raises(GrammarTooLarge):
        host.states.number([n << 32 for n in range(1, 5002)])
    assert host.states.held() == 0


def test_states_ask_when_their_time_is_over(native_module: ModuleType) -> None:
    host = Host(native_module, {})
    for seconds, asks in ((0.0, True), (600.0, False), (-1.0, True)):
        host.asked.clear()
        host.states.start_clock(seconds)
        host.states.number([len(host.states) << 32])
        assert ("admit" in [name for name, *_ in host.asked]) == asks


def test_states_may_be_asked_while_they_ask(native_module: ModuleType) -> None:
    """Every question is answered after so many other states have been made that all tables have moved."""

    def busy(result: Any) -> Any:
        def answer(*arguments: Any) -> Any:
            nonlocal depth, fresh
            if depth < 2:
                depth += 1
                for _ in range(40):
                    fresh += 1
                    rest = host.continuations.then(900, host.continuations.then(fresh, 0))
                    state = host.states.number([(5 + fresh % 7) << 32 | rest, 5 << 32 | rest])
                    assert host.states.moves(state) or host.states.begins(state) >= 0
                host.states.step(start, 0)
                depth -= 1
            return result(*arguments) if callable(result) else result

        return answer

    depth, fresh, start = 0, 1000, 0
    described = {8: (OPTIONS, EMPTY, 7, 13, 14, 15), 7: (CHARACTER, 7), 6: (CHARACTER, 6)}
    described |= {13 + i: (SEQUENCE, 6, 10 + i) for i in range(3)}
    host = Host(native_module, dict.fromkeys(range(2, 9000), (CHARACTER, 30)) | described)
    counts = {10: (2, 0, 3), 11: (2, 0, 5), 12: (2, 0, 9)}
    items = [6 << 32 | host.continuations.then(n, 0) for n in counts]
    quiet = {"edges": packed([Edge(3, 0, True)]), "counts": lambda e: counts.get(e, ()), "shortest": 3}
    quiet |= {"widest": lambda given: given[-1:], "uncounted": 12}
    start = host.states.number([9 << 32 | host.continuations.then(8, 0), 7 << 32])
    host.answers |= {name: busy(answer) for name, answer in (quiet | {"admit": None}).items()}
    after = host.states.step(start, 0)
    assert host.states[after] == (0, items[2], 7 << 32) and fresh > 1000
    head = host.states.product_head(True, after, after)
    assert host.states.is_live(head) and host.states.begins(host.states.number([head << 32])) == 3
    simpler = host.states.unbounded(after, 4)
    assert host.states[simpler] == (0, 6 << 32 | host.continuations.then(12, 0), 7 << 32)


def test_states_are_freed_with_their_cycle(native_module: ModuleType) -> None:
    host = Host(native_module, {})
    host.states.moves(host.states.number([20 << 32]))
    gone = weakref.ref(host)
    del host
    gc.collect()
    assert gone() is None
