# SPDX-License-Identifier: Apache-2.0
"""Heads read exactly the UTF-8 form of their characters."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from sgl_constrain import codepoints
from sgl_constrain.codepoints import contains, union
from sgl_constrain.utf8 import NO_HEAD, Heads


def reads(heads: Heads, head: int, data: bytes) -> bool:
    complete = False
    for byte in data:
        edge = next((edge for edge in heads.edges[head] if edge.mask >> byte & 1), None)
        if edge is None:
            return False
        head, complete = edge.head, edge.complete
    return complete and head == NO_HEAD


@given(
    st.lists(st.tuples(st.integers(0, codepoints.MAX), st.integers(0, 70_000))),
    st.lists(st.characters(exclude_categories=["Cs"])),
)
@example(
    [(0, codepoints.MAX)],
    ["\0", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000"],
)
def test_a_head_reads_its_characters(ranges: list[tuple[int, int]], others: list[str]) -> None:
    heads = Heads()
    wanted = union((low, min(low + span, codepoints.MAX)) for low, span in ranges)
    head = heads.of_characters(wanted)
    edges = [chr(p) for low, high in wanted for p in (low, high) if not 0xD800 <= p <= 0xDFFF]
    for character in [*others, *edges]:
        assert (head != NO_HEAD and reads(heads, head, character.encode())) == contains(
            wanted, ord(character)
        )


def test_surrogates_have_no_utf8_form() -> None:
    heads = Heads()
    assert heads.of_characters(((0xD800, 0xDFFF),)) == NO_HEAD
    around = heads.of_characters(((0xD7FF, 0xE000),))
    assert reads(heads, around, "\ud7ff".encode()) and reads(heads, around, "\ue000".encode())
    assert not reads(heads, around, "\ud800".encode("utf-8", "surrogatepass"))


def test_equal_sets_have_one_head() -> None:
    heads = Heads()
    assert heads.of_characters(((65, 70), (200, 300))) == heads.of_characters(
        union([(200, 300), (68, 70), (65, 67)])
    )
    assert heads.of_bytes(1 << 65) == heads.of_characters(((65, 65),))
