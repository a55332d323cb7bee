# SPDX-License-Identifier: Apache-2.0
"""Heads that read texts: their edges spell the text, whatever other texts there are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sgl_constrain.expression import EMPTY, Expressions
from sgl_constrain.limits import Limits
from sgl_constrain.texts import NOTHING, TEXTS, Texts
from sgl_constrain.utf8 import NO_HEAD, Heads

TEXT = st.binary(min_size=1, max_size=12)


def spelled(texts: Texts, head: int) -> bytes:
    """What is read along the edges."""
    data = b""
    while head != NO_HEAD:
        mask, after, complete = texts.edge(head)
        assert mask.bit_count() == 1 and mask == texts.first(head) and complete == (after == NO_HEAD)
        data += bytes([mask.bit_length() - 1])
        assert texts.left(head) == 1 or texts.text(after) == texts.text(head)[1:]
        head = after
    return data


@given(st.lists(TEXT, min_size=1))
def test_the_edges_of_a_head_spell_its_text(given: list[bytes]) -> None:
    texts = Texts(Expressions(Heads(), Limits()))
    heads = [texts.head(text) for text in given]
    assert [texts.head(text) for text in given] == heads and len(set(heads)) == len(set(given))
    for text, head in zip(given, heads, strict=True):
        assert spelled(texts, head) == texts.text(head) == text and texts.left(head) == len(text)


@given(st.sets(st.text("ab", max_size=5).map(str.encode), min_size=2))
def test_words_begin_with_what_tells_them_apart(given: set[bytes]) -> None:
    expressions = Expressions(Heads(), Limits())
    texts = Texts(expressions)

    def words(expression: int) -> set[bytes]:
        if expression == EMPTY:
            return {b""}
        ended, edges = texts.begin(expression)
        found = set() if ended == NOTHING else words(ended)
        for head, after in edges:
            byte = expressions.heads.first(head).bit_length() - 1 if head < TEXTS else None
            before = texts.text(head) if byte is None else bytes([byte])
            found |= {before + rest for rest in words(after)}
        return found

    assert words(expressions.words(dict.fromkeys(given, EMPTY))) == given
