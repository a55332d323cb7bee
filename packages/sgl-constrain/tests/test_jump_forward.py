# SPDX-License-Identifier: Apache-2.0
"""Forced text as tokens: whatever text comes after, they are the tokenizer's, and the grammar takes them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sgl_constrain import Compiler, Jump, Matcher, Vocabulary
from sgl_constrain.bench.cases import select
from sgl_constrain.bench.jumping import Jumps, measure
from sgl_constrain.bench.tokenizers import load

Merges = Sequence[tuple[bytes, bytes]]


class PairMerging:
    """Byte-level BPE as it is defined: of all neighbours, merge the pair that comes first in `merges`."""

    def __init__(self, alphabet: str, merges: Merges) -> None:
        self.ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
        bytes_used = sorted({bytes((byte,)) for byte in alphabet.encode()})
        pieces = dict.fromkeys([*bytes_used, *(left + right for left, right in merges)])
        self.ids = {piece: i + 1 for i, piece in enumerate(pieces)}
        self.vocabulary = Vocabulary([b"", *pieces], eos=[0])

    def __call__(self, data: bytes) -> list[int]:
        data.decode()  # whole characters only
        pieces = [data[i : i + 1] for i in range(len(data))]
        while True:
            neighbours = enumerate(pairwise(pieces))
            pairs = [(self.ranks[pair], i) for i, pair in neighbours if pair in self.ranks]
            if not pairs:
                return [self.ids[piece] for piece in pieces]
            _, i = min(pairs)
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


@st.composite
def merges(draw: st.DrawFn, alphabet: str) -> Merges:
    """Pairs of pieces that exist by then, in the order in which they are merged."""
    pieces = sorted({bytes((byte,)) for byte in alphabet.encode()})
    found: list[tuple[bytes, bytes]] = []
    for _ in range(draw(st.integers(0, 14))):
        pair = (draw(st.sampled_from(pieces)), draw(st.sampled_from(pieces)))
        if pair[0] + pair[1] not in pieces:
            found.append(pair)
            pieces.append(pair[0] + pair[1])
    return found


def all_jumps(encode: PairMerging, options: Sequence[str], tail: int) -> int:
    """Write every option in its canonical tokens and check the jump at every place; returns how many tokens
    jumps made.
    """
    grammar = Compiler(encode.vocabulary).choice(options)
    made = 0
    for option in options:
        tokens = tuple(encode(option.encode()))
        for done in range(len(tokens)):
            matcher = Matcher(grammar)
            assert matcher.accept_tokens(tokens[:done]) == done
            jump = matcher.jump_forward_tokens(encode, tokens[max(0, done - tail) : done])
            assert jump.drop <= tail
            assert tokens[: done - jump.drop + len(jump.tokens)] == tokens[: done - jump.drop] + jump.tokens
            matcher.rollback(jump.drop)
            assert matcher.accept_tokens(jump.tokens) == len(jump.tokens)
            made += len(jump.tokens)
    return made


ALPHABET = "abé"


@given(
    merges(ALPHABET),
    st.text(alphabet=ALPHABET, max_size=6),
    st.lists(st.text(alphabet=ALPHABET, max_size=5), min_size=1, max_size=4, unique=True),
    st.integers(0, 3),
)
@example([(b"b", b"a"), (b"a", b"b")], "ab", ["a", "b"], 0)  # `ab`, but `a` `ba`
def test_no_text_that_may_follow_changes_the_tokens(
    pairs: Merges, shared: str, ends: list[str], tail: int
) -> None:
    all_jumps(PairMerging(ALPHABET, pairs), [shared + end for end in ends], tail)


def test_a_token_that_begins_inside_another_is_left_to_the_model() -> None:
    # `":[` is a token, but before a string the tokenizer writes `":` and `["`.
    pairs = [(b'"', b":"), (b"[", b'"'), (b'":', b"[")]
    encode = PairMerging('":[1]', pairs)
    assert [encode.ids[b'":'], encode.ids[b'["']] == encode(b'":["')
    matcher = Matcher(Compiler(encode.vocabulary).choice(['":["]', '":[1]']))
    assert matcher.jump_forward_bytes() == b'":['
    assert matcher.jump_forward_tokens(encode) == Jump(0, ()), "either may be right"
    one = Matcher(Compiler(encode.vocabulary).choice(['":[11', '":[1"']))
    assert one.jump_forward_tokens(encode) == Jump(0, tuple(encode(b'":[1'))), "here it may not"


def test_most_of_what_is_forced_is_jumped() -> None:
    """The rule must not be so careful that nothing is left of the jump."""
    encode = PairMerging("abcdefgh", [(b"a", b"b"), (b"c", b"d"), (b"ab", b"cd"), (b"e", b"f"), (b"g", b"h")])
    assert all_jumps(encode, ["abcdefgh", "abcdefgg"], 1) >= 4


def test_a_tail_that_begins_inside_a_character_is_cut() -> None:
    encode = PairMerging("é!", [(b"\xa9", b"!")])
    matcher = Matcher(Compiler(encode.vocabulary).regex("é!é"))
    first, second = encode.ids[b"\xc3"], encode.ids[b"\xa9"]
    matcher.accept_tokens([first, second])
    assert matcher.jump_forward_tokens(encode, [second]).drop == 0
    halfway = Matcher(Compiler(encode.vocabulary).regex("é!é"))
    halfway.accept_token(first)
    assert halfway.jump_forward_tokens(encode) == Jump(0, ()), "what is forced begins inside a character"
    whole = Jump(0, tuple(encode("é!é".encode())[1:]))
    assert halfway.jump_forward_tokens(encode, [first]) == whole, "with its first byte it is whole"


def test_jumps_through_real_json_are_canonical() -> None:
    pytest.importorskip("tiktoken")
    if importlib.util.find_spec("mistral_common") is None:
        pytest.skip("mistral-common, which carries the tokenizer, is not installed")
    found = measure(
        load("tekken"), select(["person", "issue_event", "k8s_service", "tool_", "chess", "package"])
    )
    total = Jumps()
    for way, jumps in found.items():
        if way.startswith("by the rule"):
            total += jumps
    assert total.runs > 150
    assert total.canonical >= 0.995 * total.runs
    assert total.saved > 0.1 * total.tokens
