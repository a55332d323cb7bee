# SPDX-License-Identifier: Apache-2.0
"""What is known of a vocabulary before any grammar, and the walks that use it: masks are those of brute
force, however far a repetition has been counted.
"""

from __future__ import annotations

import pickle
import random
import re
from collections.abc import Callable

import numpy as np
import pytest

from sgl_constrain import DEAD, Compiler, Grammar, Vocabulary
from sgl_constrain.codepoints import complement
from sgl_constrain.expression import ENDLESS
from sgl_constrain.slices import Slices
from sgl_constrain.trie import Trie

EVERY_CHARACTER = "".join(map(chr, range(0x110000)))


def tokens() -> list[bytes]:
    """Every byte, runs of blanks and letters up to 40 long with other things after them, and some twice."""
    rng = random.Random(11)
    found = [bytes([byte]) for byte in range(256)]
    for _ in range(500):
        body = rng.choice([" \n", " ", "ab", "aé日", "\\n"]) * 40
        start = rng.choice(["", "", '"', "x", ': "'])
        end = rng.choice(["", "", '"', '",', "z", "é"[:1], "{", "1"])
        found.append((start + body[: rng.randint(1, 40)] + end).encode())
    found += [token[:-1] for token in found[-60:] if len(token) > 2]  # some end inside a character
    return found + found[-90::3]


@pytest.fixture(autouse=True)
def both_engines(engine: str) -> None:
    """Every test is run with both."""


@pytest.fixture(scope="module")
def runs() -> Vocabulary:
    return Vocabulary(tokens(), eos=[0])


def test_a_trie_without_some_tokens_is_the_trie_of_the_others() -> None:
    everything = tokens()
    rng = random.Random(3)
    for share in (0.0, 0.1, 0.7, 1.0):
        out = np.array([rng.random() < share for _ in everything] + [False])
        trie = Trie(everything)
        out[trie.alias] = out[trie.aliased]  # equal tokens are left out together
        expected = Trie([b"" if gone else token for token, gone in zip(everything, out, strict=False)])
        found = trie.without(out)
        for name in ("byte", "token_at", "first_child", "child_count", "characters"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name
        for level, other in zip(found.levels, expected.levels, strict=True):
            assert (level.start, level.stop) == (other.start, other.stop)
            assert np.array_equal(level.parent, other.parent) and np.array_equal(level.token, other.token)


def test_what_follows_a_byte_is_the_trie_of_what_is_left_of_its_tokens() -> None:
    everything = tokens()
    trie = Trie(everything)
    for root in (0, 0x20, 0x22, 0x78):
        byte = bytes([int(trie.byte[root])])
        found = trie.below(root)
        expected = Trie([token[1:] if token.startswith(byte) else b"" for token in everything])
        for name in ("byte", "first_child", "child_count", "characters", "token_at"):
            assert np.array_equal(getattr(found, name), getattr(expected, name)), name
        for level, other in zip(found.levels, expected.levels, strict=True):
            assert np.array_equal(level.parent, other.parent) and np.array_equal(level.token, other.token)


def begun(data: bytes) -> str:
    """The characters of several bytes that begin with `data`, which is not all of any."""
    size = next((n for n, first, last in ((2, 0xC2, 0xDF), (3, 0xE0, 0xEF), (4, 0xF0, 0xF4))
                 if data and first <= data[0] <= last), 0)  # fmt: skip
    if not 0 < len(data) < size or any(byte & 0xC0 != 0x80 for byte in data[1:]):
        return ""
    low = data[0] & 0xFF >> size + 1
    for byte in data[1:]:
        low = low << 6 | byte & 0x3F
    width = 6 * (size - len(data))
    return EVERY_CHARACTER[max(low << width, (0x80, 0x800, 0x10000)[size - 2]) : (low + 1) << width]


@pytest.mark.parametrize("ranges", ["ab", r"\S", '^"', "^ ab", r"\w", "é日", r"\w\s"])
def test_the_runs_of_a_class_are_what_re_says(runs: Vocabulary, ranges: str) -> None:
    characters = re.compile(f"(?![\ud800-\udfff])[{ranges}]")
    spans = [match.span() for match in re.finditer(f"[{ranges}]+", EVERY_CHARACTER)]
    head = runs.slices.heads.of_characters(tuple((start, end - 1) for start, end in spans))
    runs.slices.run(head)  # it may have to be met twice
    found = runs.slices.run(head)
    assert found is not None
    lengths: dict[tuple[int, int], int] = {}  # tokens that leave, by byte and length of the run
    for token in range(1, runs.size):
        data = runs[token]
        text = data.decode(errors="surrogateescape")
        length = next((i for i, c in enumerate(text) if not characters.match(c)), len(text))
        rest = data[len(text[:length].encode()) :]
        inside = not rest or bool(characters.search(begun(rest)))
        assert found.tokens[token] == inside, data
        if inside:
            assert found.lengths[token] == length + bool(rest) <= found.longest
        elif not characters.search(begun(rest[:1])):
            lengths[rest[0], length] = token
    for byte, length in lengths:
        assert found.leaving >> byte & 1
        nodes = found.after(byte, length, length).tolist()
        assert nodes and {int(runs.trie.byte[node]) for node in nodes} == {byte}
        assert set(nodes) <= set(found.after(byte, 0, found.longest).tolist())


@pytest.mark.parametrize("times", [8, 16, 23, 1000, ENDLESS])
def test_a_slice_has_only_tokens_inside_its_class_and_its_trie_the_others(
    runs: Vocabulary, times: int
) -> None:
    head = runs.slices.heads.of_characters(complement(((0x78, 0x78),)))
    for _ in range(3):  # a class is made when it is met again, and so is a slice of it
        part = runs.slices.of(head, times)
    assert part is not None
    inside = set(np.flatnonzero(part.allowed).tolist())
    assert inside and not any(b"x" in runs[i] for i in inside)
    assert times == ENDLESS or max(sum(byte & 0xC0 != 0x80 for byte in runs[i]) for i in inside) <= times
    kept = {i for i in part.trie.token_at.tolist() if i >= 0}
    kept |= {
        a for a, b in zip(part.trie.alias.tolist(), part.trie.aliased.tolist(), strict=True) if b in kept
    }
    assert kept == {i for i in range(runs.size) if runs[i]} - inside


@pytest.mark.parametrize(
    "pattern",
    [
        '[ \n]{0,20}"[^"\\\\]{0,30}"[ \n]{0,20},',
        '([ \n]{0,9}"((ab)*|[^"\\\\\x00-\x1f]{2,17}|\\\\n)*"){1,3}',
        "[ \n]{7}x?",
        "[ \n]{0,20}[ \nx]",  # what follows begins like the run: not to be walked as one
        "[ab]{3,50}[^ab]{0,60}",
        "[aé日]{0,33}z",
        "(x[ab]{0,100}){20,200}",
        "x{100}|x[ab]{0,30}",
        '(?=.{1,38}$)"[^"]*"',
        "[^x]{39,45}x",
        '([ab]{2,9}\n?){1,3}["x]',  # what ends a run depends on its length
        '([a-z]{1,5} ){2}|[a-z]{3,7}"',
        "x? ([^,]{2,30},)+",
    ],
)
def test_masks_of_counted_runs_are_those_of_brute_force(
    runs: Vocabulary, allowed: Callable[[Grammar, int], list[int]], pattern: str
) -> None:
    grammar = Compiler(runs).regex(pattern)
    rng = random.Random(pattern)
    for _ in range(6):
        state = grammar.start
        for _ in range(14):
            expected = {token for token in range(runs.size) if grammar.step(state, token) != DEAD}
            assert set(allowed(grammar, state)) == expected
            texts = [token for token in expected if token not in runs.eos]
            if not texts:
                break
            state = grammar.step(state, rng.choice(texts))


def test_states_that_differ_in_counts_no_token_reaches_have_one_mask(runs: Vocabulary) -> None:
    grammar = Compiler(runs).regex('"[^"]{0,5000}"')
    first = grammar.step_bytes(grammar.start, b'"')
    grammar.mask(first)
    known = grammar.nbytes
    state = first
    for _ in range(2000):
        state = grammar.step_bytes(state, b"a")
        assert grammar.mask_id(state) == grammar.mask_id(first)
    assert grammar.nbytes < known + 2000 * 4096, "states were added, rows of transitions were not"


@pytest.mark.parametrize(
    "pattern",
    [
        '(?!(abab|"|é日|x)")[^"]*"',
        '(?!(ab|a)*")[^"]*"',
        '(ab|aé|z)"|(?!(ab|z)")[^"]*"',
        '(?!日)[^"]*',
        "(?!ab)[^x]*é",
    ],
)
def test_masks_of_any_text_but_some_are_those_of_brute_force(
    runs: Vocabulary, allowed: Callable[[Grammar, int], list[int]], pattern: str
) -> None:
    compiler = Compiler(runs)
    for text in ("", "a", "ab", "é", "z", "aba"):
        grammar = compiler.regex(pattern)
        state = grammar.step_bytes(grammar.start, text.encode())
        expected = {token for token in range(runs.size) if grammar.step(state, token) != DEAD}
        assert set(allowed(grammar, state)) == expected


@pytest.mark.parametrize("pattern", ["(?=[^z]{0,230}$)(a|b{120}c)*", "(?!a{231}|[^z]{231,})(a|b{120}c)*"])
def test_a_product_is_entered_only_where_its_counts_leave_room_to_finish(
    runs: Vocabulary, allowed: Callable[[Grammar, int], list[int]], pattern: str
) -> None:
    grammar = Compiler(runs).regex(pattern)  # a `b` needs 121 characters, of 230 in all
    single = {runs[token]: token for token in range(1, 256)}
    for read in (0, 1, 90, 109, 110, 111, 125, 130, 131, 150, 229):
        state = grammar.step_bytes(grammar.start, b"a" * read)
        found = allowed(grammar, state)
        assert single[b"a"] in found
        assert (single[b"b"] in found) == (read + 121 <= 230) == (grammar.step(state, single[b"b"]) != DEAD)
    assert not allowed(grammar, grammar.step_bytes(grammar.start, b"a" * 230))[1:], "only the end is left"


def test_states_made_without_a_walk_have_room_in_the_next_one(
    runs: Vocabulary, allowed: Callable[[Grammar, int], list[int]]
) -> None:
    grammar = Compiler(runs).regex("[a-c]{1,3000}(d[^x]*)?")
    state = grammar.start
    for _ in range(2500):
        state = grammar.step_bytes(state, b"b")
    for text in (b"", b"d"):
        state = grammar.step_bytes(state, text)
        assert set(allowed(grammar, state)) - {0} == {
            token for token in range(1, runs.size) if grammar.step(state, token) != DEAD
        }


def test_a_vocabulary_travels_with_its_classes(runs: Vocabulary) -> None:
    masks = []
    for vocabulary in (pickle.loads(pickle.dumps(runs)), runs):
        grammar = Compiler(vocabulary).regex('"[^"]*"')
        masks.append(grammar.mask(grammar.step_bytes(grammar.start, b'"a')).tolist())
    assert masks[0] == masks[1]


def test_usual_classes_are_told_alike_over_any_heads(runs: Vocabulary) -> None:
    Compiler(runs).regex("[\u0400-\u0433]+[a-f]")
    one, other = (runs.slices, Slices(runs.trie, runs.size))
    assert [edges for edges, _ in one.usual()] == [edges for edges, _ in other.usual()]
