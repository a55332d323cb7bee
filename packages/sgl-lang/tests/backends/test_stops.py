# SPDX-License-Identifier: Apache-2.0
"""Stop strings that are looked for here: the same text, however it arrives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sgl_lang.backends._stops import Cut, divide

TEXT = st.text("ab\n ", max_size=12)


@given(
    TEXT, st.lists(st.text("ab\n ", min_size=1, max_size=3), max_size=3), st.randoms(use_true_random=False)
)
def test_any_chunking_shows_the_same(text, stops, random):
    cut = Cut(tuple(stops))
    places = sorted(random.sample(range(len(text) + 1), k=min(3, len(text) + 1)))
    shown = ""
    for place in [*places, len(text)]:
        now = cut.shown(text[:place])
        assert now.startswith(shown)  # nothing that was shown is taken back
        shown = now
        if cut.matched is not None:
            break
    ends = [text.find(stop) for stop in stops if stop in text]
    assert cut.shown(text, over=True) == text[: min(ends, default=len(text))]
    assert (cut.matched is None) == (not ends)


def test_only_the_beginning_of_a_stop_string_is_held_back():
    cut = Cut(("END", "\n\n"))
    assert cut.shown("so E") == "so "
    assert cut.shown("so EN") == "so "
    assert cut.shown("so ENX") == "so ENX"
    assert cut.shown("so ENX\n") == "so ENX"
    assert cut.shown("so ENX\n", over=True) == "so ENX\n"
    assert cut.matched is None


def test_the_vendor_gets_what_it_takes():
    assert divide(("a", "b", "a", "", "c"), most=2) == (("a", "b"), ("c",))
    assert divide(("a", "\n", " "), takes=lambda stop: bool(stop.strip())) == (("a",), ("\n", " "))
    assert divide(()) == ((), ())
