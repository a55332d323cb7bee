# SPDX-License-Identifier: Apache-2.0
"""Patterns against `re.fullmatch`: a table of constructs, then patterns and texts that hypothesis
makes up.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sgl_constrain import Compiler, Grammar, GrammarTooLarge, InvalidPattern, UnsupportedPattern, Vocabulary
from sgl_constrain.automaton import Automaton
from sgl_constrain.expression import Expressions
from sgl_constrain.limits import Limits
from sgl_constrain.regex import Dialect, regex
from sgl_constrain.states import DEAD
from sgl_constrain.utf8 import Heads

HEADS = Heads()


def automaton(
    pattern: str, *, flags: int = 0, dialect: Dialect = Dialect.PYTHON, anywhere: bool = False
) -> Automaton:
    expressions = Expressions(HEADS, Limits())
    return Automaton(
        expressions, regex(expressions, pattern, flags=flags, dialect=dialect, anywhere=anywhere)
    )


def accepted(automaton: Automaton, text: str) -> bool:
    state = automaton.start
    for byte in text.encode():
        state = next((target for mask, target in automaton.moves(state) if mask >> byte & 1), DEAD)
    return automaton.accepts(state)


TEXTS = [
    *[
        "",
        "a",
        "b",
        "ab",
        "ba",
        "aa",
        "aab",
        "abc",
        "abd",
        "cab",
        "aaa",
        "aaaa",
        "aaaaa",
        "a\n",
        "\n",
        "a\n\n",
        "\na",
        "b\n",
    ],
    *[
        "x",
        "x,x",
        ",x",
        "x,",
        "a b",
        "a b # hi",
        "A",
        "aB",
        "ABC",
        "1",
        "12",
        "12.5",
        "1.",
        "a1",
        "1ab",
        "٣",
        "é",
        "ß",
    ],
    *[
        "ẞ",
        "ss",
        "K",
        "K",
        "k",
        "ſ",
        "S",
        "İ",
        "i",
        "ı",
        "日本",
        "😀",
        "_",
        "-",
        "]",
        "]a",
        "[",
        "{",
        "a{}",
        "a{,}",
        "a{,",
        "\b",
    ],
    *[
        "\\",
        ".",
        ".*",
        "^",
        "$",
        "\x00",
        "\t",
        " ",
        "\x85",
        "\u2028",
        "\xa0",
        "aB1",
        "ab12",
        "abbcc",
        "bbcc",
        "ABAB",
        "STRASSE",
    ],
]

PATTERNS = [
    "", "a", "ab|cd|", "(|a)+", "a*", "a+?b??", "a{2}", "a{2,}", "a{,2}", "a{2,3}", "a{,}", "a{}", "a{,",
    "{", "}", "]", ".", ".*", "(?s:.)*", "(?s).", r"\n", r"[\n]", "[^a]", "[^\\n]*", "[]a]+", "[^]a]",
    "[a-]", "[-a]", r"[a\-z]", "[a-cx]", r"\d+", r"\D", r"\w+", r"\W", r"\s", r"\S+", r"[^\W\d_]+",
    r"[\W\D]", r"[\d\s]", r"\d+(\.\d+)?", r"(?a)\w+", r"(?a:\d)\d", r"\x41", r"\u00e9", r"\U0001F600",
    r"\101", r"\0", r"[\101-\103]", r"\N{LATIN SMALL LETTER A}", r"\.\*", r"\\", r"[\b]", "(?i)k", "(?i)[k]",
    "(?i)ß", "(?i)straße", "(?i)i", "(?i)[^k]", "(?ai)k", "(?i:a)b", "(?i)(?-i:a)b", "(?i)[a-z]+", "^a$",
    "^a$|^b$", "(^|,)x(,|$)", r"a$\n", r"(a|b$)\s*", "$", "^", r"$$\n", "(^a)?b", r"(a$)?\n?", r"\Aab\Z",
    r"(a\Z)?\n?", "a^b", "(a|^)b", "(^|a)(^|b)", "(a|$)(b|$)", r"(\n|a)$", r"a$\n?", r"(a|\n)*$",
    r"[\s\S]*a$[\s\S]*", r"(?=.*\d)(?=.*[a-z]).{3,5}", r"(?!abc)\w+", "(?!.*ab$)[ab]*", r"(?=a$)\w*",
    r"(?=a$)\w*\n?", "a(?!b)[abc]*", "(?!$)a*", "(?=(^a|b))[ab]*", "(?!a|b).*", "(?=a)(?!ab).*",
    "x?(?=,|x)[x,]*", "((?=a)a|b)", "(?=(?=a).)a.*", "(?!(?!a)).*", "(?#comment)a b",
    "a(?#c)*b?", "aa(?#c)(?#d){2}", "(?x)a (?#c) + b (?#d)", "(|a|ab)(?#)?", "|a|ab", "(?x) a  b # hi",
    "(?x)a\\ b", "(?x: a )b", "(?x)[ ]", "(?P<n>a)b", "(?:a|(?i:b)c)*", "(a?){3}", "(a*)*", "(ab){0}",
    "(^a){0}b", "(^a){1}b", "(a{2}){1,2}", "((a?){2,3}b?){0,2}", "(a|aa){2}", "(a|b)*a(a|b)",
    "[^\x00-\x7f]+",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_language_is_that_of_fullmatch(pattern: str) -> None:
    read = automaton(pattern)
    expected = re.compile(pattern)
    for text in TEXTS:
        assert accepted(read, text) == bool(expected.fullmatch(text)), text


@pytest.mark.parametrize("flags", [re.I, re.A, re.S, re.X, re.I | re.A, re.X | re.S, re.M])
def test_flags_are_those_of_re(flags: int) -> None:
    for pattern in (r"\w+ |.k", "(?u:\\w)+", "[k-s]*\\s", "a b#", "İ|[^k]"):
        read, expected = automaton(pattern, flags=flags), re.compile(pattern, flags)
        for text in TEXTS:
            assert accepted(read, text) == bool(expected.fullmatch(text)), (pattern, text)


INVALID = [
    "a**", "*a", "(a", "a)", "[a", r"\q", "a{3,2}", "(?P<a>x)(?P<a>y)", "a(?i)b", r"\x4", r"\u12",
    r"\U00110000", "[b-a]", r"[\d-z]", "\\", "[\\", "(?", "(?P<1>a)", "(?P<a", "^*", "$+", "a{2}{3}",
    r"\400", "x{99999999999}", "(?z)a", "(?au)a", "(?-a:a)", "(?i-i:a)", "(?#a", r"\N{NO SUCH NAME}", r"\N",
    "(?L)a", "[]", "[^]", "(?<a", r"[\8]", "a|*", "(*)", "(?i", "a*(?#c)*", "a+(?#c)?", "(?#c)*",
]  # fmt: skip


@pytest.mark.parametrize("pattern", INVALID)
def test_what_re_cannot_read_is_invalid(pattern: str) -> None:
    with pytest.raises((re.error, OverflowError)):
        re.compile(pattern)
    with pytest.raises(InvalidPattern) as caught:
        automaton(pattern)
    assert not isinstance(caught.value, UnsupportedPattern)


@pytest.mark.parametrize(
    ("pattern", "name", "position"),
    [
        (r"(a)\1", "backreference", 3),
        ("(?P<n>a)(?P=n)", "backreference", 8),
        ("(?>a)", "atomic", 0),
        ("ba++", "possessive", 2),
        (r"\bfoo", "word boundary", 0),
        (r"foo\B", "word boundary", 3),
        ("(?<=a)b", "lookbehind", 0),
        ("(?<!a)b", "lookbehind", 0),
        ("(a)?(?(1)a|b)", "conditional", 4),
        ("(?m)^a", "MULTILINE", 4),
        ("(?:(?=a)b|x)c", "lookahead", 3),
        ("(?:(?!a).)*", "repetition", 0),
        ("(^a)*", "repetition", 0),
    ],
)
def test_what_is_not_supported_is_refused_by_name(pattern: str, name: str, position: int) -> None:
    with pytest.raises(UnsupportedPattern, match=name) as caught:
        automaton(pattern)
    assert caught.value.position == position


def test_a_surrogate_in_a_pattern_matches_nothing() -> None:
    assert automaton("\ud800").start == DEAD
    assert automaton("[\ud800-\udfff]|a").start != DEAD
    assert automaton("x\ud800|a").start != DEAD


SEARCHES = [
    "^a", "a$", "^a$|^b$", "a", "^(?=.*a)(?=.*1).+$", "^(?!b)", "(?!b)a", "(^|,)x(,|$)", "^$", "^[ab]*$",
    "a|^b", "^(a|b$)", "^(?!x).*[a1]$", "(a|b)(1|$)", "^a{2,}", "[0-9]{2}",
]  # fmt: skip


@pytest.mark.parametrize("pattern", SEARCHES)
def test_a_search_finds_what_re_finds(pattern: str) -> None:
    read = automaton(pattern, dialect=Dialect.ECMA, anywhere=True)
    expected = re.compile(pattern.replace("$", r"\Z"))  # ECMA's `$` is the very end
    for text in TEXTS:
        assert accepted(read, text) == bool(expected.search(text)), text


def test_ecma_reads_its_own_escapes() -> None:
    for pattern, yes, no in [
        (r"\d", "1", "٣"),
        (r"\w", "a", "é"),
        (r"\s", "\ufeff", "\x1c"),
        (r"\/", "/", "\\"),
        (r"\cJ", "\n", "J"),
        (r"\u{1F600}", "😀", "u"),
        (r"\uD83D\uDE00", "😀", "\ufffd"),
        (r"\p{Lu}", "Ä", "ä"),
        (r"\P{Letter}", "1", "ä"),
        (r"[\p{L}-]+", "a-ä", "1"),
        ("[^]", "\n", ""),
        (".", "\x85", "\u2028"),
        ("(?<name>a)", "a", "b"),
        ("a{,2}", "a{,2}", "aa"),
    ]:
        read = automaton(pattern, dialect=Dialect.ECMA)
        assert accepted(read, yes) and not accepted(read, no), pattern
    with pytest.raises(UnsupportedPattern, match="Script"):
        automaton(r"\p{Script=Greek}", dialect=Dialect.ECMA)
    assert automaton("[]", dialect=Dialect.ECMA).start == DEAD


# -- patterns made up ----------------------------------------------------------------------------------------

ATOMS = st.sampled_from(
    [
        "a",
        "b",
        "c",
        "ab",
        ".",
        r"\d",
        r"\w",
        r"\s",
        r"\S",
        "[ab]",
        "[^a]",
        "[a-c1]",
        "é",
        "\\n",
        "^",
        "$",
        r"\Z",
        "(?i:k)",
        "",
    ]
)
REPEATS = st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}", "*?", "{3}"])


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = inner.map(lambda p: f"(?:{p})")
    return st.one_of(
        st.lists(inner, min_size=2, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda ps: "(" + "|".join(ps) + ")"),
        st.tuples(group, REPEATS).map("".join),
        st.tuples(st.sampled_from(["(?=", "(?!"]), inner).map(lambda p: f"{p[0]}{p[1]})"),
    )


PATTERN = st.recursive(ATOMS, _grow, max_leaves=8)
TEXT = st.text(alphabet="abcAK1é \n日", max_size=7)


@settings(max_examples=250)
@given(PATTERN, st.lists(TEXT, min_size=12, max_size=12), st.sampled_from([0, re.A, re.I, re.S]))
def test_made_up_patterns_agree_with_re(pattern: str, texts: list[str], flags: int) -> None:
    try:
        read = automaton(pattern, flags=flags)
    except UnsupportedPattern:
        assume(False)
    expected = re.compile(pattern, flags)
    for text in ["", "\n", *texts]:
        assert accepted(read, text) == bool(expected.fullmatch(text)), text


@settings(max_examples=100)
@given(st.data(), PATTERN)
def test_texts_that_re_generates_are_accepted(data: st.DataObject, pattern: str) -> None:
    try:
        read = automaton(pattern)
    except UnsupportedPattern:
        assume(False)
    text = data.draw(
        st.from_regex(pattern, fullmatch=True) if "(?" not in pattern.replace("(?:", "") else TEXT
    )
    assume(not any(0xD800 <= ord(c) <= 0xDFFF for c in text))
    position = data.draw(st.integers(0, len(text)))
    for changed in (text, text[:position] + text[position + 1 :], text[:position] + "a" + text[position:]):
        assert accepted(read, changed) == bool(re.fullmatch(pattern, changed)), changed


@settings(max_examples=400)
@given(st.text(alphabet="ab()[]{}*+?|^$\\.,-1:=!<>#iPxdw", max_size=10))
def test_any_string_is_read_as_re_reads_it_or_refused(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected: re.Pattern[str] | None = re.compile(pattern)
        except (re.error, OverflowError):
            expected = None
    try:
        read = automaton(pattern)
    except UnsupportedPattern:
        return
    except InvalidPattern:
        assert expected is None
        return
    assert expected is not None, "re refuses this"
    for text in ("", "a", "b", "ab", "aab", pattern):
        assert accepted(read, text) == bool(expected.fullmatch(text)), text


# -- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"(a|b)*a(a|b){14}", "ab" * 10 + "a" + "b" * 14, "b" * 40),
        (r"(a?){30}a{30}", "a" * 45, "a" * 61),
        (r".{0,100000}", "x" * 3000, "x\n"),
        (r"((a{0,100}){0,100}){0,100}b", "a" * 300 + "b", "a" * 300),
        (r"(x+x+)+y", "x" * 200 + "y", "x" * 200),
        (r"(a*)*(b*)*c", "a" * 100 + "b" * 100 + "c", "ba"),
        (r"\w* .{50,700}", "word word " + "y" * 300, "word " + "z" * 20),
        ("(?:" * 60 + "a" + ")*" * 60, "a" * 50, "b"),
    ],
)
def test_hostile_patterns_stay_small(pattern: str, yes: str, no: str) -> None:
    read = automaton(pattern)
    assert accepted(read, yes) and not accepted(read, no)
    assert len(read.states) < 50_000
    assert max(map(len, read.states)) < 200


@pytest.mark.parametrize(
    ("pattern", "limit"),
    [
        ("(" * 300 + ")" * 300, "nesting"),
        ("a" * 2_000_001, "source_chars"),
        ("^" * 300, "nesting"),
        ("(?=a)" * 300, "nesting"),
    ],
)
def test_what_exceeds_a_limit_is_refused(pattern: str, limit: str) -> None:
    with pytest.raises(GrammarTooLarge) as caught:
        automaton(pattern)
    assert caught.value.limit == limit


def test_five_thousand_alternatives_are_one_table(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    names = [f"city number {n * 7919 % 100_003}" for n in range(5000)]
    grammar = compiler.regex("|".join(names))
    assert accepts(grammar, names[1234]) and not accepts(grammar, names[1234][:-1] + "x")
    assert grammar.forced(grammar.start) == b"city number "


def test_growth_beyond_the_limit_of_states_is_an_error(vocabulary: Vocabulary) -> None:
    grammar = Compiler(vocabulary, limits=Limits(states=500)).regex(".{0,100000}")
    with pytest.raises(GrammarTooLarge) as caught:
        grammar.step_bytes(grammar.start, b"x" * 1000)
    assert caught.value.limit == "states"
    assert grammar.step_bytes(grammar.start, b"x" * 20) != DEAD, "what was made before stays usable"
