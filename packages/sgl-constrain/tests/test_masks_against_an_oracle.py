# SPDX-License-Identifier: Apache-2.0
"""Masks bit for bit against brute force over real vocabularies: SmolLM2's 49,152 tokens, and those of
Mistral's tekken, which has 130,072.

The oracle shares nothing with the library: `re`'s own parser reads the pattern, `re` itself says which of
Unicode's characters each class has, and a position automaton over characters says whether a text can still
become a match. What JSON Schemas allow is written as a pattern by hand. Prefixes are texts cut anywhere, also
inside characters.

    python packages/sgl-constrain/tests/test_masks_against_an_oracle.py [prefixes] [tokens of tekken]

does the same with 300 prefixes of every pattern (about a quarter of an hour).
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import json
import random
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sgl_constrain import Compiler, Grammar, Limits, Vocabulary

PATTERNS = [
    r"\d{1,3}(\.\d{1,3}){3}", r"\d{4}-\d{2}-\d{2}", r"[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}",
    r'"[^"\\\x00-\x1f]*"', r".{1,60}", r"[\w\d\s]{1,30}", r"x[^,\n]{3,30}(,[^,\n]{0,6}){2}",
    r"(?i)straße.*", r"[^\x00-\x7f]+", r"(?!.*foo).*", r"(?=.*\d)(?=.*[a-z])[a-z0-9]{3,8}",
    r'\s*\{\s*"name"\s*:\s*"[^"]*"\s*\}', r"(a|b)*a(a|b){6}", r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?",
    r"(true|false|null)", "日本.{2}", "[一-龠]{1,5}。?", "é*ß?", "[^日]*日", "[\U0001f600-\U0001f64f]+",
    "(the|of|and)( (the|of|and))*", r"\s{0,20}x", r"#[0-9a-fA-F]{6}", r"(\w+ ){2,4}\w+\.",
    r"([^,\n]*,){3}[^,\n]*", r"a?b?c?d?", r"(ab|a)(bc|c)?", r"\S+\s\S+", r"[ -~]{3,}", r"(?s).*",
    r"[\x00-\x1f]+", r"x{3,5}y{2}", r"(?i)[k-s]+", r"(?a)\w+ \w+", r"\W+", r"(ж|é|日|😀){2,3}",
    r"[\u0400-\u04ff ]+", r"(?:[^\W\d_]+\s?){1,6}", "(?![ab]*ba)[ab]{0,9}c?", "(?x) [a-f]+ \\  \\d{2} # x",
]  # fmt: skip

_CHARACTER = r'(?:[^"\\\x00-\x1f]|\\["\\bfnrt]|\\u00(?:0[0-7be-f]|1[0-9a-f]))'
_ANY = r'(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u(?:[0-9A-Ca-cEFef][0-9A-Fa-f]{3}|[Dd][0-7][0-9A-Fa-f]{2}|' \
    r'[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}))'  # fmt: skip
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_BLANK = r"[ \t\n\r]{0,2}"
# Schemas, compiled with `compact` unless whitespace is given, and what they allow as patterns.
SCHEMAS: list[tuple[Any, int, str]] = [
    ({"type": "string"}, 0, f'"{_ANY}*"'),
    ({"type": "string", "maxLength": 4}, 0, f'"{_CHARACTER}{{0,4}}"'),
    ({"type": "number"}, 0, _NUMBER),
    ({"type": "integer", "minimum": -2, "maximum": 120}, 0, "-[12]|[0-9]|[1-9][0-9]|1[01][0-9]|120"),
    ({"type": "number", "minimum": 1.5, "exclusiveMaximum": 3}, 0, r"1\.[5-9][0-9]*|2(\.[0-9]+)?"),
    ({"enum": ["é", "éa", 1, 12, None, [True]]}, 0, r'"éa?"|12?|null|\[true\]'),
    ({"items": {"type": "boolean"}, "type": "array"}, 2,
     rf"\[{_BLANK}\]|\[{_BLANK}(true|false)({_BLANK},{_BLANK}(true|false))*{_BLANK}\]"),
    ({"items": {"const": "日"}, "type": "array", "minItems": 1, "maxItems": 3}, 0, r'\["日"(,"日"){0,2}\]'),
    ({"type": "object", "additionalProperties": False, "required": ["n"],
      "properties": {"n": {"type": "string", "maxLength": 5}, "née": {"type": "null"}}}, 0,
     rf'\{{"n":"{_CHARACTER}{{0,5}}"(,"née":null)?\}}'),
    ({"type": "object", "additionalProperties": False, "properties": {"a": {"const": 1}, "b": {"const": 2}}},
     1, r'\{B\}|\{B("a"B:B1(B,B"b"B:B2)?|"b"B:B2)B\}'.replace("B", r"[ \t\n\r]?")),
    ({"type": "string", "pattern": "^[a-zé]+-\\d{2}$"}, 0, '"[a-zé]+-[0-9]{2}"'),
    ({"type": "string", "not": {"enum": ["no", "none"]}, "pattern": "^[a-z]{2,4}$"}, 0,
     '"(?!no"|none")[a-z]{2,4}"'),
    ({"type": "object", "patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False}, 0,
     rf'\{{("x{_CHARACTER}*":null(,"x{_CHARACTER}*":null)*)?\}}'),
    ({"type": "string", "format": "uuid"}, 0, '"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"'),
]  # fmt: skip
CASES = [*PATTERNS, *SCHEMAS]


# -- the oracle ----------------------------------------------------------------------------------------------

_LAST = 0x10FFFF
_NO_CHARACTER = np.zeros(_LAST + 1, dtype=np.bool_)


@functools.cache
def _members(source: str, flags: int) -> NDArray[np.bool_]:
    """[0x110000] bool: the characters that `re` matches with a pattern for one character."""
    everything = np.arange(_LAST + 1, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    found = np.zeros(_LAST + 1, dtype=np.bool_)
    for match in re.finditer(f"(?:{source})+", everything, flags):
        found[match.start() : match.end()] = True
    found[0xD800:0xE000] = False
    return found


class _Positions:
    """Glushkov's automaton of what `re`'s parser makes of a pattern: a bit for each place where a character
    is read. Repetitions are unrolled.
    """

    def __init__(self, tree: Any, flags: int) -> None:
        self.classes: list[NDArray[np.bool_]] = [_NO_CHARACTER]  # position 0: the start
        self.follow: list[int] = [0]
        nullable, first, last = self._sequence(tree, flags)
        self.follow[0] = first
        self.final = last | nullable

    def _leaf(self, source: str, flags: int) -> tuple[bool, int, int]:
        self.classes.append(_members(source, flags & (re.I | re.A | re.S)))
        self.follow.append(0)
        return False, 1 << len(self.classes) - 1, 1 << len(self.classes) - 1

    def _sequence(self, items: Iterable[Any], flags: int) -> tuple[bool, int, int]:
        nullable, first, last = True, 0, 0
        for item in items:
            n, f, end = self._item(item, flags)
            self._link(last, f)
            first |= f if nullable else 0
            last = end | (last if n else 0)
            nullable = nullable and n
        return nullable, first, last

    def _link(self, last: int, first: int) -> None:
        for position in _bits(last):
            self.follow[position] |= first

    def _item(self, item: Any, flags: int) -> tuple[bool, int, int]:
        kind, value = item
        if kind is sre.LITERAL:
            return self._leaf(f"\\U{value:08x}", flags)
        if kind is sre.NOT_LITERAL:
            return self._leaf(f"[^\\U{value:08x}]", flags)
        if kind is sre.ANY:
            return self._leaf(".", flags)
        if kind is sre.IN:
            return self._leaf("[" + "".join(map(_member_source, value)) + "]", flags)
        if kind is sre.SUBPATTERN:
            _, on, off, body = value
            return self._sequence(body, (flags | on) & ~off)
        if kind is sre.BRANCH:
            found = [self._sequence(branch, flags) for branch in value[1]]
            return any(n for n, _, _ in found), _any(f for _, f, _ in found), _any(e for _, _, e in found)
        assert kind in (sre.MAX_REPEAT, sre.MIN_REPEAT), kind
        least, most, body = value
        parts = [self._sequence(body, flags) for _ in range(least)]
        optional = 1 if most is sre.MAXREPEAT else most - least
        nullable, first, last = True, 0, 0
        for i in range(least + optional):
            n, f, end = parts[i] if i < least else self._sequence(body, flags)
            if most is sre.MAXREPEAT and i == least:
                self._link(end, f)
            n = n or i >= least
            self._link(last, f)
            first |= f if nullable else 0
            last = end | (last if n else 0)
            nullable = nullable and n
        return nullable, first, last


def _any(sets: Iterable[int]) -> int:
    return functools.reduce(int.__or__, sets, 0)


def _bits(number: int) -> Iterator[int]:
    while number:
        yield (number & -number).bit_length() - 1
        number &= number - 1


_CATEGORIES = {
    sre.CATEGORY_DIGIT: r"\d", sre.CATEGORY_NOT_DIGIT: r"\D", sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S", sre.CATEGORY_WORD: r"\w", sre.CATEGORY_NOT_WORD: r"\W",
}  # fmt: skip


def _member_source(member: Any) -> str:
    kind, value = member
    if kind is sre.NEGATE:
        return "^"
    if kind is sre.CATEGORY:
        return _CATEGORIES[value]
    low, high = value if kind is sre.RANGE else (value, value)
    return f"\\U{low:08x}-\\U{high:08x}"


State = tuple[tuple[int, ...], bytes]  # of each automaton its positions; the bytes of an unfinished character


class Oracle:
    """Can this text still become a match? Lookaheads may stand at the places where a character of the
    pattern has been read in one way only: at its beginning, or after a literal.
    """

    def __init__(self, pattern: str) -> None:
        tree = sre_parser.parse(pattern)
        flags = tree.state.flags
        self._parts: list[tuple[_Positions, bool]] = []  # (automaton, must it match or must it not)
        anything = sre_parser.parse("(?s:.)*")
        before: list[Any] = []
        plain: list[Any] = []
        for item in tree:
            if item[0] in (sre.ASSERT, sre.ASSERT_NOT):
                assert all(kind is sre.LITERAL for kind, _ in before)
                body = [*before, *item[1][1], *anything]
                self._parts.append((_Positions(body, flags), item[0] is sre.ASSERT))
            else:
                plain.append(item)
                before.append(item)
        self._parts.append((_Positions(plain, flags), True))
        # Characters that are alike to all classes are of one kind.
        different = {id(members): members for part, _ in self._parts for members in part.classes}
        signature = np.zeros(_LAST + 1, dtype=np.int64)
        for i, members in enumerate(different.values()):
            signature |= members.astype(np.int64) << i
        _, first, self._kind = np.unique(signature, return_index=True, return_inverse=True)
        self._examples = [int(point) for point in first]
        self._members = [
            [
                _any(1 << i for i, members in enumerate(part.classes) if members[point])
                for point in self._examples
            ]
            for part, _ in self._parts
        ]
        self._read: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}
        self._live: dict[tuple[int, ...], bool] = {}
        self._steps: dict[tuple[State, int], State | None] = {}
        self.start: State = ((1,) * len(self._parts), b"")

    def accepts(self, state: State) -> bool:
        return not state[1] and self._matches(state[0])

    def _matches(self, places: tuple[int, ...]) -> bool:
        return all(
            bool(here & part.final) == wanted
            for here, (part, wanted) in zip(places, self._parts, strict=True)
        )

    def _after(self, places: tuple[int, ...], kind: int) -> tuple[int, ...]:
        key = (places, kind)
        found = self._read.get(key)
        if found is None:
            found = self._read[key] = tuple(
                _any(part.follow[position] for position in _bits(here)) & members[kind]
                for here, (part, _), members in zip(places, self._parts, self._members, strict=True)
            )
        return found

    def _is_live(self, places: tuple[int, ...]) -> bool:
        """Is there a way to a match? Looks at everything that can be reached."""
        known = self._live.get(places)
        if known is not None:
            return known
        before: dict[tuple[int, ...], list[tuple[int, ...]]] = {places: []}
        pending = [places]
        good: list[tuple[int, ...]] = []
        while pending:
            here = pending.pop()
            if self._live.get(here) or self._matches(here):
                good.append(here)
            for kind in range(len(self._examples)) if self._live.get(here) is None and here[-1] else ():
                following = self._after(here, kind)
                if following not in before:
                    before[following] = []
                    pending.append(following)
                before[following].append(here)
        live: set[tuple[int, ...]] = set()
        while good:
            here = good.pop()
            if here not in live:
                live.add(here)
                good += before[here]
        self._live.update((here, here in live) for here in before if here not in self._live)
        return self._live[places]

    def step(self, state: State, byte: int) -> State | None:
        """The state after one more byte; None when no continuation matches."""
        key = (state, byte)
        if key not in self._steps:
            self._steps[key] = self._step(*state, byte)
        return self._steps[key]

    def _step(self, places: tuple[int, ...], begun: bytes, byte: int) -> State | None:
        data = begun + bytes([byte])
        try:
            point = ord(data.decode())
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                return None
            low, high = _completions(data)
            kinds = np.unique(self._kind[low : high + 1])
            if low <= 0xD800 <= high:
                kinds = np.unique(np.concatenate([self._kind[low:0xD800], self._kind[0xE000 : high + 1]]))
            alive = any(self._is_live(self._after(places, int(kind))) for kind in kinds)
            return (places, data) if alive else None
        after = self._after(places, int(self._kind[point]))
        return (after, b"") if self._is_live(after) else None


def _completions(data: bytes) -> tuple[int, int]:
    """The first and the last character whose UTF-8 form begins with `data`."""
    missing = (2 if data[0] < 0xE0 else 3 if data[0] < 0xF0 else 4) - len(data)
    bits = data[0] & (0x7F >> len(data) + missing)
    for byte in data[1:]:
        bits = bits << 6 | byte & 0x3F
    low = {0: 0x80, 1: 0x800, 2: 0x10000}[len(data) + missing - 2]
    return max(bits << 6 * missing, low), min((bits + 1 << 6 * missing) - 1, _LAST)


Trie = dict[int, Any]  # byte -> Trie; -1 -> the tokens that end here


def trie_of(tokens: dict[int, bytes]) -> Trie:
    root: Trie = {}
    for token, data in tokens.items():
        here = root
        for byte in data:
            here = here.setdefault(byte, {})
        here.setdefault(-1, []).append(token)
    return root


def brute_force(oracle: Oracle, state: State, trie: Trie) -> list[int]:
    """Every token that the oracle admits. A token whose beginning is not admitted is not either."""
    found: list[int] = []
    pending = [(trie, state)]
    while pending:
        node, here = pending.pop()
        for byte, below in node.items():
            if byte == -1:
                found += below
            elif (following := oracle.step(here, byte)) is not None:
                pending.append((below, following))
    return found


# -- the comparison ------------------------------------------------------------------------------------------


def compiled(compiler: Compiler, case: Any) -> tuple[Grammar, Oracle]:
    if isinstance(case, str):
        return compiler.regex(case), Oracle(case)
    schema, spaces, pattern = case
    return compiler.json_schema(schema, max_whitespace=spaces), Oracle(pattern)


def prefixes(grammar: Grammar, rng: random.Random, count: int) -> Iterator[bytes]:
    """Texts made of tokens that the masks allow, half of them cut somewhere, often inside a character."""
    for _ in range(count):
        state, text = grammar.start, b""
        for _ in range(rng.randint(0, 9)):
            bits = np.unpackbits(grammar.mask(state).view(np.uint8), bitorder="little")
            choices = [token for token in np.flatnonzero(bits).tolist() if grammar.vocabulary[token]]
            if not choices:
                break
            some = rng.sample(choices, min(20, len(choices)))
            token = rng.choice([t for t in some if not grammar.vocabulary[t].isascii()] or some)
            token = rng.choice([token, some[0]])
            state, text = grammar.step(state, token), text + grammar.vocabulary[token]
        yield text[: rng.randint(0, len(text))] if rng.random() < 0.5 else text


def compare(grammar: Grammar, oracle: Oracle, trie: Trie, ids: NDArray[np.int64], texts: list[bytes]) -> int:
    """The number of masks compared, in the bits of `ids`, the tokens of the trie."""
    for text in texts:
        here: State | None = oracle.start
        for byte in text:
            assert here is not None, text
            here = oracle.step(here, byte)
        assert here is not None, text
        state = grammar.step_bytes(grammar.start, text)
        assert grammar.accepts(state) == oracle.accepts(here), text
        bits = np.unpackbits(grammar.mask(state).view(np.uint8), bitorder="little").astype(np.bool_)
        expected = np.zeros_like(bits)
        expected[brute_force(oracle, here, trie)] = True
        eos = list(grammar.vocabulary.eos)
        assert bits[eos].all() == oracle.accepts(here), text
        wrong = ids[bits[ids] != expected[ids]]
        assert wrong.size == 0, (text, [grammar.vocabulary[token] for token in wrong[:9].tolist()])
    return len(texts)


def tekken() -> Vocabulary:
    """The 130,072 text tokens of Mistral's tekken, and an end token."""
    package = importlib.util.find_spec("mistral_common")
    if package is None or package.origin is None:
        pytest.skip("mistral-common is not installed")
    source = Path(package.origin).parent / "data" / "tekken_240911.json"
    whole = json.loads(source.read_text())
    config = whole["config"]
    size = config["default_vocab_size"] - config["default_num_special_tokens"]
    tokens = [base64.b64decode(entry["token_bytes"]) for entry in whole["vocab"][:size]]
    return Vocabulary([*tokens, b""], eos=[len(tokens)])


class Setting:
    """A vocabulary, and the tokens of it that brute force looks at: all, or a sample and all single bytes."""

    def __init__(self, vocabulary: Vocabulary, sample: int | None = None) -> None:
        self.compiler = Compiler(vocabulary, limits=Limits(seconds=120))
        tokens = {i: vocabulary[i] for i in range(vocabulary.size) if vocabulary[i]}
        if sample is not None and sample < len(tokens):
            chosen = set(random.Random(sample).sample(sorted(tokens), sample))
            tokens = {i: data for i, data in tokens.items() if len(data) == 1 or i in chosen}
        self.ids = np.array(sorted(tokens))
        self.trie = trie_of(tokens)

    def check(self, case: Any, count: int) -> int:
        grammar, oracle = compiled(self.compiler, case)
        texts = sorted(set(prefixes(grammar, random.Random(repr(case)), count)))
        return compare(grammar, oracle, self.trie, self.ids, texts)


@pytest.fixture(scope="module")
def all_of_smollm2(smollm2: Vocabulary) -> Setting:
    return Setting(smollm2)


@pytest.fixture(scope="module")
def some_of_tekken() -> Setting:
    return Setting(tekken(), sample=4000)


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case)[:50])
def test_masks_over_the_whole_of_smollm2(all_of_smollm2: Setting, case: Any) -> None:
    assert all_of_smollm2.check(case, 6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case)[:50])
def test_masks_over_a_sample_of_tekken(some_of_tekken: Setting, case: Any) -> None:
    assert some_of_tekken.check(case, 3)


TEXTS = [
    "", "a", "ab", "abc", "1.2.3.4", "2024-02-29", "the of", "日本ab", "é", "éß", "x", "foo", "a1b", "aab",
    "\n", "-12.5e3", '"a"', "😀", "STRASSE", "straße!", "x" * 61, "ac", "ab 12", "#a0B1c2", ",,,", "xxxyy",
    "aaab",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_oracle_itself_agrees_with_fullmatch(pattern: str) -> None:
    oracle = Oracle(pattern)
    for text in TEXTS:
        here: State | None = oracle.start
        for byte in text.encode():
            here = oracle.step(here, byte) if here is not None else None
        assert (here is not None and oracle.accepts(here)) == bool(re.fullmatch(pattern, text)), text


def main(count: int = 300, sample: int = 200_000) -> None:
    from conftest import smollm2 as fixture  # the folder of this file is on the path of a script

    for name, setting in (("SmolLM2", Setting(fixture.__wrapped__())), ("tekken", Setting(tekken(), sample))):
        began, masks = time.monotonic(), 0
        for case in CASES:
            masks += setting.check(case, count)
        print(
            f"{name}: {len(CASES)} languages, {masks} masks of {len(setting.ids)} tokens, all equal,"
            f" {time.monotonic() - began:.0f} s"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
