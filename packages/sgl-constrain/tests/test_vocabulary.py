# SPDX-License-Identifier: Apache-2.0
"""The vocabulary's contract, and its trie against the tokens themselves."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_constrain import InvalidVocabulary, Vocabulary
from sgl_constrain.trie import Trie

TOKENS = st.lists(st.binary(max_size=5) | st.text(alphabet="ab", max_size=4).map(str.encode), max_size=60)


@given(TOKENS)
def test_the_trie_holds_every_token(tokens: list[bytes]) -> None:
    trie = Trie(tokens)
    spelled: dict[int, bytes] = {}
    for depth, level in enumerate(trie.levels):
        for node in range(level.start, level.stop):
            parent = level.parent[node - level.start]
            above = spelled[trie.levels[depth - 1].start + parent] if depth else b""
            spelled[node] = above + bytes([trie.byte[node]])
    assert len(set(spelled.values())) == len(spelled) == trie.nodes
    prefixes = {token[:i] for token in tokens for i in range(1, len(token) + 1)}
    assert set(spelled.values()) == prefixes
    for node, word in spelled.items():
        children = range(trie.first_child[node], trie.first_child[node] + trie.child_count[node])
        assert [spelled[child] for child in children] == sorted(p for p in prefixes if p[:-1] == word)
        assert trie.token_at[node] == (tokens.index(word) if word in tokens else -1)
    for alias, original in zip(trie.alias, trie.aliased, strict=True):
        assert tokens[alias] == tokens[original] and original < alias
    named = set(trie.alias.tolist()) | {int(token) for token in trie.token_at if token >= 0}
    assert named == {i for i, token in enumerate(tokens) if token}


@given(TOKENS, st.binary(max_size=3))
def test_longer_finds_the_extensions(tokens: list[bytes], beginning: bytes) -> None:
    vocabulary = Vocabulary(tokens, eos=[])
    expected = sorted({t for t in tokens if t.startswith(beginning) and len(t) > len(beginning)})
    assert list(vocabulary.longer(beginning)) == expected
    assert vocabulary.has_longer(beginning) == bool(expected)


def test_a_token_is_its_bytes() -> None:
    vocabulary = Vocabulary([b"a", b"", b"bc", b"</s>"], eos=[3], size=40)
    assert len(vocabulary) == vocabulary.size == 40 and vocabulary.words == 2
    assert vocabulary.join([0, 2, 0]) == b"abca"
    assert vocabulary[3] == b"", "a token that ends the text adds nothing to it"
    assert vocabulary[39] == b""
    for outside in (40, -1):
        with pytest.raises(IndexError, match="outside"):
            vocabulary[outside]


def test_what_cannot_be_a_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidVocabulary, match="size 1"):
        Vocabulary([b"a", b"b"], eos=[], size=1)
    with pytest.raises(InvalidVocabulary, match="eos"):
        Vocabulary([b"a"], eos=[1])
    with pytest.raises(InvalidVocabulary, match="bytes"):
        Vocabulary(["a"], eos=[])  # type: ignore[list-item]


def test_fingerprints_tell_vocabularies_apart() -> None:
    same = Vocabulary([b"ab", b"c"], eos=[]), Vocabulary([b"ab", b"c"], eos=[])
    assert same[0].fingerprint == same[1].fingerprint
    others = [
        Vocabulary([b"a", b"bc"], eos=[]),
        Vocabulary([b"ab", b"c"], eos=[1]),
        Vocabulary([b"ab", b"c"], eos=[], size=3),
    ]
    assert len({v.fingerprint for v in [*same, *others]}) == 4


def test_a_vocabulary_can_be_pickled(vocabulary: Vocabulary) -> None:
    copy = pickle.loads(pickle.dumps(vocabulary))
    assert copy.fingerprint == vocabulary.fingerprint
    assert copy.trie.nodes == vocabulary.trie.nodes
