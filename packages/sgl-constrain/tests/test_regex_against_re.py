# SPDX-License-Identifier: Apache-2.0
"""Patterns that hypothesis makes up, against two engines that we did not write: `re` says which texts match,
and the regex package (`partial=True`) which texts can still become a match.

    python packages/sgl-constrain/tests/test_regex_against_re.py [examples] [seed]

draws as many patterns as are asked for (20,000 take about ten minutes) instead of the few drawn here.
"""

from __future__ import annotations

import re
import sys
import warnings

import pytest
from hypothesis import HealthCheck, assume, given, seed, settings
from hypothesis import strategies as st

from sgl_constrain import GrammarTooLarge, InvalidPattern, UnsupportedPattern
from sgl_constrain.automaton import Automaton
from sgl_constrain.expression import Expressions
from sgl_constrain.limits import Limits
from sgl_constrain.regex import Dialect, regex
from sgl_constrain.states import DEAD
from sgl_constrain.utf8 import Heads

HEADS = Heads()
LIMITS = Limits(seconds=120)
EXAMPLES = 100

# Characters that lie apart in what matters: case (K and the Kelvin sign, s and the long s, the dotted i),
# digits and letters beyond ASCII, line ends of Unicode, each length of UTF-8, the last character.
ALPHABET = "abAkKsSiIß1_-. \n\t\r\x00\x1f\x7f\x85éſKİı٣٠日本\u2028\u00a0😀\U0010ffff"
TEXT = st.text(alphabet=ALPHABET, max_size=6)


def _class(members: list[str], negated: bool) -> str:
    return f"[{'^' if negated else ''}{''.join(members)}]"


MEMBERS = st.sampled_from(
    [
        *[
            "a",
            "b-i",
            "K",
            "s",
            "0-9",
            r"\d",
            r"\w",
            r"\s",
            r"\D",
            r"\W",
            r"\S",
            "é",
            "ß-ſ",
            r"\n",
            r"\x00-\x1f",
        ],
        *[r"\]", r"\-", "_", r"\u0130", "\u2028", "日", "😀-\U0010ffff", r"\^", ".", "a-k", r"\u0660-\u0669"],
    ]
)
CLASSES = st.builds(_class, st.lists(MEMBERS, min_size=1, max_size=3), st.booleans())
LITERALS = st.text(alphabet=ALPHABET, min_size=1, max_size=2).map(re.escape)
ESCAPES = st.sampled_from(
    [".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\t", r"\x41", r"\u212a", r"\0", r"\101"]
)
ANCHORS = st.sampled_from(["^", "$", r"\A", r"\Z"])
REPEATS = st.sampled_from(
    ["*", "+", "?", "{2}", "{,2}", "{1,3}", "{2,}", "{0}", "{0,1}", "*?", "+?", "??", "{1,2}?"]
)
SCOPES = st.sampled_from(
    ["(?i:", "(?s:", "(?a:", "(?-i:", "(?u:", "(?is-x:", "(?x: ", "(?P<name>", "(", "(?:"]
)


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = inner.map(lambda p: f"(?:{p})")
    return st.one_of(
        st.lists(inner, min_size=2, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map("|".join).map(lambda p: f"(?:{p})"),
        st.builds("{}{}".format, group, REPEATS),
        st.builds("{}{})".format, SCOPES, inner),
        st.builds("{}{}){}".format, st.sampled_from(["(?=", "(?!"]), inner, inner),
    )


PATTERN = st.recursive(st.one_of(CLASSES, LITERALS, ESCAPES, ANCHORS), _grow, max_leaves=9)
FLAGS_OF_REGEX = {0: 0, int(re.A): 0x80, int(re.S): 0x10}  # as the regex package numbers them
FLAGS = st.sampled_from([0, 0, re.A, re.I, re.S, re.I | re.A, re.I | re.S, re.X, re.X | re.I])


def read(
    pattern: str, flags: int = 0, dialect: Dialect = Dialect.PYTHON, anywhere: bool = False
) -> Automaton:
    expressions = Expressions(HEADS, LIMITS)
    root = regex(expressions, pattern, flags=flags, dialect=dialect, anywhere=anywhere)
    return Automaton(expressions, root)


def after(automaton: Automaton, data: bytes) -> int:
    state = automaton.start
    for byte in data:
        state = next((target for mask, target in automaton.moves(state) if mask >> byte & 1), DEAD)
    return state


def reference(pattern: str, flags: int) -> re.Pattern[str] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return re.compile(pattern, flags)
        except (re.error, OverflowError):
            return None


def variants(text: str, other: str) -> list[str]:
    """Texts near one that perhaps matches."""
    middle = len(text) // 2
    return [text, text + other, other + text, text[:middle] + text[middle + 1 :], text + "\n", other]


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(PATTERN, FLAGS, st.lists(TEXT, min_size=4, max_size=4), st.data())
def test_what_matches(pattern: str, flags: int, texts: list[str], data: st.DataObject) -> None:
    expected = reference(pattern, flags)
    try:
        automaton = read(pattern, flags)
    except UnsupportedPattern:
        return
    except InvalidPattern:
        assert expected is None, pattern
        return
    assert expected is not None, "re refuses this"
    if "(?" not in pattern.replace("(?:", ""):
        matching = st.from_regex(expected, fullmatch=True).filter(lambda text: text.isprintable())
        texts = [*texts, data.draw(matching | TEXT)]
    for text in [t for known in texts for t in variants(known, texts[0])]:
        found = automaton.accepts(after(automaton, text.encode()))
        assert found == bool(expected.fullmatch(text)), text


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(PATTERN, FLAGS, st.lists(TEXT, min_size=6, max_size=6))
def test_what_can_still_match(pattern: str, flags: int, texts: list[str]) -> None:
    """A state is DEAD exactly where no match begins with the text: there are no dead ends, and nothing that
    can be continued is cut off.
    """
    other = pytest.importorskip("regex")
    # The regex package has no answer of its own for lookaheads and anchors at the end of a partial text. It
    # folds case otherwise, and has fewer blanks.
    unlike = ("(?=", "(?!", "$", "i:", "is-", r"\Z", "^", r"\A", "(?x", r"\s", r"\S")
    assume(int(flags) in FLAGS_OF_REGEX and not any(part in pattern for part in unlike))
    try:
        automaton = read(pattern, flags)
        expected = other.compile(pattern, FLAGS_OF_REGEX[int(flags)])
    except (InvalidPattern, GrammarTooLarge, other.error):
        return
    for text in texts:
        for end in range(len(text) + 1):
            begun = text[:end]
            found = after(automaton, begun.encode()) != DEAD
            assert found == (expected.fullmatch(begun, partial=True) is not None), begun


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(PATTERN, st.lists(TEXT, min_size=6, max_size=6))
def test_what_is_found_somewhere(pattern: str, texts: list[str]) -> None:
    """JSON Schema's way: a search, with ECMA's `\\d`, `\\w`, `$`."""
    assume(
        not any(
            part in pattern for part in (r"\s", r"\S", "(?a", "(?u", "(?i", "(?-", "(?s", "(?x", ".", r"\A")
        )
    )
    assume(not any(part in pattern for part in (r"\Z", r"\0", r"\1", "{,", "(?P", "[^]", "[]")))
    said_to_re = pattern.replace("$", r"\Z") if "[" not in pattern else pattern
    assume("$" not in said_to_re)
    expected = reference(said_to_re, re.A)
    assume(expected is not None)
    try:
        automaton = read(pattern, dialect=Dialect.ECMA, anywhere=True)
    except UnsupportedPattern:
        return
    for text in [t for known in texts for t in variants(known, texts[0])]:
        found = automaton.accepts(after(automaton, text.encode()))
        assert expected is not None and found == bool(expected.search(text)), text


def main(examples: int = 20_000, first: int = 0) -> None:
    for test in (test_what_matches, test_what_can_still_match, test_what_is_found_somewhere):
        drawn = settings(
            max_examples=examples, derandomize=False, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        seed(first)(drawn(test))()
        print(f"{test.__name__}: {examples} patterns, all as expected")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
