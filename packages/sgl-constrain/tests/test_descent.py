# SPDX-License-Identifier: Apache-2.0
"""What tokens have in common after a class and below a node, and the masks made with it, are those of brute
force.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sgl_constrain import DEAD, Compiler, Grammar, Vocabulary
from sgl_constrain.codepoints import Ranges
from sgl_constrain.spreads import Deep, Spreads
from sgl_constrain.tails import tails
from sgl_constrain.trie import Nodes, Trie
from sgl_constrain.utf8 import Heads

BLANK: Ranges = ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x20))
CONTENT: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x10FFFF))
PIECES = ['"', '":', '",', '"}', ' "', "name", "names", "na", "a", "ab", "b", "c", "é", "日", "\\n", "\\"]
PIECES += ["{", "[", ",", ": ", " ", "  ", "\n", "\t", "1", "12", "-", ".5", "true", "null", "x", "}", "]"]


def tokens() -> list[bytes]:
    """Every byte, and pieces of JSON put together; some end inside a character, none comes twice."""
    rng = random.Random(7)
    found = [bytes([byte]) for byte in range(256)]
    for _ in range(1300):
        found.append("".join(rng.choices(PIECES, k=rng.randint(1, 5))).encode())
    found += [token[:-1] for token in found if token[-1] >= 0x80]
    return list(dict.fromkeys(token for token in found if token))


TOKENS = tokens()


@pytest.fixture(autouse=True)
def both_engines(engine: str) -> None:
    """Every test is run with both."""


@pytest.fixture(scope="module")
def pieces() -> Vocabulary:
    return Vocabulary([*TOKENS, b""], eos=[len(TOKENS)])


def node_of(trie: Nodes, path: bytes) -> tuple[int, int]:
    """The first child and the number of children of the node that a path leads to."""
    first, count = 0, trie.levels[0].stop
    for byte in path:
        node = trie.labels.index(byte, first, first + count)
        first, count = int(trie.first_child[node]), int(trie.child_count[node])
    return first, count


def split(data: bytes, ranges: Ranges) -> tuple[int, bytes]:
    """How many characters of a class a text begins with, the last one perhaps not all there; and the rest."""
    length = 0
    for character in data.decode("utf-8", "surrogateescape"):
        point = ord(character)
        if 0xD800 <= point <= 0xDFFF or not any(low <= point <= high for low, high in ranges):
            break
        length += 1
        data = data[len(character.encode()) :]
    begun = characters(data)
    inside = any(low < begun.stop and begun.start <= high for low, high in ranges) and bool(begun)
    return (length + 1, b"") if inside else (length, data)


def characters(begun: bytes) -> range:
    """The characters of several bytes that begin with these, which are not all of any."""
    size = next((n for n, low, high in ((2, 0xC2, 0xDF), (3, 0xE0, 0xEF), (4, 0xF0, 0xF4))
                 if begun and low <= begun[0] <= high), 0)  # fmt: skip
    if not 0 < len(begun) < size or any(byte & 0xC0 != 0x80 for byte in begun[1:]):
        return range(0)
    first = begun[0] & 0xFF >> size + 1
    for byte in begun[1:]:
        first = first << 6 | byte & 0x3F
    width = 6 * (size - len(begun))
    return range(max(first << width, (0x80, 0x800, 0x10000)[size - 2]), min(first + 1 << width, 0x110000))


def test_a_subtree_is_as_large_as_what_begins_with_its_path() -> None:
    trie = Trie(TOKENS)
    paths = {token[:end] for token in TOKENS for end in range(1, len(token) + 1)}
    for path in random.Random(1).sample(sorted(paths), 200):
        first, count = node_of(trie, path)
        below = sum(1 for other in paths if other.startswith(path) and other != path)
        assert trie.size(first, count) == below


@pytest.mark.parametrize("ranges", [BLANK, CONTENT, ((0x61, 0x62), (0xE9, 0xE9))])
@pytest.mark.parametrize("path", [b"", b'"', b" ", b'":', b"\\n", b"na"])
def test_a_spread_is_what_the_tokens_below_a_node_say(ranges: Ranges, path: bytes) -> None:
    trie, heads = Trie(TOKENS), Heads()
    head = heads.of_characters(ranges)
    spread = Spreads(heads).make(trie, *node_of(trie, path), head)
    inside: set[tuple[int, int]] = set()
    after: dict[int, set[tuple[int, int]]] = {}
    for token, data in enumerate(TOKENS):
        if not data.startswith(path) or data == path:
            continue
        length, rest = split(data[len(path) :], ranges)
        if not rest:
            inside.add((length, token))
        elif len(rest) == 1:
            after.setdefault(rest[0], set()).add((length, token))
    assert told(spread.tokens) == inside
    ends = {bit.bit_length() - 1: told(ended) for bit, (ended, _) in spread.after.items()}
    assert {byte: found for byte, found in ends.items() if found} == {
        byte: found for byte, found in after.items() if not heads.first(head) >> byte & 1
    }
    for depth in range(3):
        assert spread.tokens.up_to(depth) == [n for n, d in zip(*spread.tokens, strict=True) if d <= depth]


def told(deep: Deep) -> set[tuple[int, int]]:
    assert deep.depths == sorted(deep.depths)
    return {(depth, number) for number, depth in zip(*deep, strict=True) if number >= 0}


@pytest.mark.parametrize("byte", [0x22, 0x5C, 0x2C])
def test_tails_are_what_comes_after_a_byte(byte: int, pieces: Vocabulary) -> None:
    slices = pieces.slices
    head = slices.heads.of_characters(((0x61, 0x7A),))
    slices.run(head)
    run = slices.run(head)
    assert run is not None
    nodes = run.after(byte, 0, run.longest)
    found = tails(pieces.trie, nodes, 0, run.longest)
    expected: dict[bytes, set[int]] = {}
    for token, data in enumerate(TOKENS):
        if match := re.fullmatch(rb"[a-z]*" + re.escape(bytes([byte])) + rb"(.*)", data, re.S):
            expected.setdefault(match.group(1), set()).add(token)
    assert set(found.alone.tolist()) == expected.pop(b"")
    by_node: dict[int, set[int]] = {}
    for token, node in zip(found.tokens.tolist(), found.nodes.tolist(), strict=True):
        by_node.setdefault(node, set()).add(token)
    assert len(by_node) == len(expected)
    for tail, same in expected.items():
        first, count = node_of(found.trie, tail[:-1])
        node = found.trie.labels.index(tail[-1], first, first + count)
        assert by_node[node] == same and found.trie.token_at[node] == node


def check_walks(
    grammar: Grammar, vocabulary: Vocabulary, allowed: Callable[[Grammar, int], list[int]]
) -> None:
    """Masks along random texts, where they begin so, against one token after another."""
    rng = random.Random(3)
    for begin in (b"", b"", b"", b'"', b'{"', b'"n'):
        state = grammar.step_bytes(grammar.start, begin)
        for _ in range(7 if state != DEAD else 0):
            expected = {t for t in range(len(TOKENS)) if grammar.step(state, t) != DEAD}
            assert set(allowed(grammar, state)) - set(vocabulary.eos) == expected
            if not expected:
                break
            several = rng.choices(sorted(expected), k=3)
            state = grammar.step(state, min(several, key=lambda t: len(TOKENS[t])))


@pytest.mark.parametrize(
    "pattern",
    [
        r"[ \t\n\r]{0,20}a[ \t\n\r]{0,2}(b|,)[ \t\n\r]*\"",
        r"[ \t\n\r]{2,9}x[ \t\n\r]{1,4}1?",
        r"x?[ \t\n\r]{0,20}([ \t\n\r]1|,)",  # what follows begins with a blank too
        r"[ \t\n\r]{0,2}(a|[ \t\n\r]{0,4}b)",
        r"[ \t\n\r]{0,2}a|[ \t\n\r]{0,9}b",
        r'("[^"\\]*"[ \t\n\r]{0,3}[,:][ \t\n\r]*){2,}',
        r'("([^"\\\x00-\x1f]|\\["\\n])*"[ \t\n\r]{0,20},?){1,4}',
        r'"(name|names|na|a)"[ \t\n\r]{0,20}:[ \t\n\r]{0,1}(true|null|12?)',
        r'"(é|日[^"]{0,9}|a[^"]{3,})*",?',
        r'(nam(e|es)[:,]|"a"1|true[1-])*',
        r'("[^"\\\x00-\x1f]{0,2}",?)*',
        r'("[^"\\\x00-\x1f]{2,4}",?)*',
    ],
)
def test_masks_of_texts_and_classes(
    pieces: Vocabulary, allowed: Callable[[Grammar, int], list[int]], pattern: str
) -> None:
    compiler = Compiler(pieces)
    for _ in range(2):  # some of what is known is made when it is asked for again
        check_walks(compiler.regex(pattern), pieces, allowed)
        compiler = Compiler(pieces)


def text(pattern: str, *excluded: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, "not": {"enum": excluded}}


@pytest.mark.parametrize(
    "schema",
    [
        {
            "type": "object",
            "properties": {"name": {"type": "null"}, "names": {}, "na": {}, "é": {"const": 1}},
        },
        {"type": "object", "properties": {"name": False, "a\nb": {}, "日": False, "": False}},
        {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": {"const": 1}},
        {"type": "string", "not": {"enum": ["", "na", "name", 'a"', "a\\", "éa"]}},
        {"type": "array", "items": {"type": "string", "not": {"enum": ["ab", "a"]}}},
        text("^(ab|a|[c-z])*$", "a", "ac"),  # after `a` a text may end, or `b` come
        text("^(ab|a|[c-z])*$", "ab"),
        text("^[a-c]*$", "a", "ab", "abc"),
        text("^[a-c]*1?$", "a", "a1"),
        text("^[a-z]*(éb1b1b1)?$", "éb1b1b1"),  # what begins so must have something before it
        text("^[a-z]*$", *("na" + "me" * n for n in range(9))),
    ],
)
@pytest.mark.parametrize("max_whitespace", [0, 2])
def test_masks_of_any_text_but_some(
    pieces: Vocabulary, allowed: Callable[[Grammar, int], list[int]], schema: Any, max_whitespace: int
) -> None:
    check_walks(Compiler(pieces).json_schema(schema, max_whitespace=max_whitespace), pieces, allowed)


def test_few_tokens_and_many_have_masks_of_one_kind(pieces: Vocabulary) -> None:
    grammar = Compiler(pieces).regex(r'na"|[a-f]{0,9}1')
    few, many = grammar.step_bytes(grammar.start, b"na"), grammar.start
    for state in (few, many, grammar.step_bytes(few, b'"')):
        mask = grammar.mask(state)
        assert mask.dtype == np.int32 and mask.shape == (pieces.words,) and not mask.flags.writeable
        assert grammar.mask_id(state) == grammar.mask_id(state)
