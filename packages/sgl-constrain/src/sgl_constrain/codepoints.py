# SPDX-License-Identifier: Apache-2.0
"""Sets of code points as sorted ranges, and the sets that Python's `re` knows by name.

`\\d`, `\\w`, `\\s` are asked of `re` itself, once per process, so they agree with the running interpreter's
Unicode version by construction. This file knows characters only; `utf8` turns sets into bytes.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np

MAX = 0x10FFFF

# Inclusive, sorted, disjoint and not adjacent: equal sets are equal tuples.
Ranges = tuple[tuple[int, int], ...]

NOTHING: Ranges = ()
ANY: Ranges = ((0, MAX),)
NOT_NEWLINE: Ranges = ((0, 9), (11, MAX))
ASCII_DIGIT: Ranges = ((0x30, 0x39),)
ASCII_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
ASCII_SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
ECMA_SPACE: Ranges = (
    *ASCII_SPACE, (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The canonical form of any collection of inclusive ranges."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    gaps: list[tuple[int, int]] = []
    start = 0
    for low, high in ranges:
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    if start <= MAX:
        gaps.append((start, MAX))
    return tuple(gaps)


def intersection(left: Ranges, right: Ranges) -> Ranges:
    common: list[tuple[int, int]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        low, high = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if low <= high:
            common.append((low, high))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(common)


def contains(ranges: Ranges, point: int) -> bool:
    i = bisect_right(ranges, (point, MAX)) - 1
    return i >= 0 and ranges[i][0] <= point <= ranges[i][1]


@functools.cache
def _every_character() -> str:
    return np.arange(MAX + 1, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


@functools.cache
def matching(escape: str) -> Ranges:
    """The characters that `re` matches with `escape`, e.g. `\\w`."""
    return tuple((m.start(), m.end() - 1) for m in re.finditer(escape + "+", _every_character()))


def prepare() -> None:
    """Make the tables of `matching` and `ignore_case` now, so that no pattern has to wait for them."""
    for escape in (r"\d", r"\w", r"\s"):
        matching(escape)
    _caseless()


@functools.lru_cache(maxsize=64)  # a pattern may name what is none
def category(name: str) -> Ranges | None:
    """The characters of a Unicode general category, `L` or `Lu`; None when there is no such category."""
    names = _categories()
    return union(r for n, ranges in names.items() if n.startswith(name) for r in ranges) or None


@functools.cache
def _categories() -> dict[str, Ranges]:
    found: dict[str, list[tuple[int, int]]] = {}
    start, current = 0, unicodedata.category("\0")
    for point in range(1, MAX + 1):
        name = unicodedata.category(chr(point))
        if name != current:
            found.setdefault(current, []).append((start, point - 1))
            start, current = point, name
    found.setdefault(current, []).append((start, MAX))
    return {name: tuple(ranges) for name, ranges in found.items()}


# -- ignoring case -------------------------------------------------------------------------------------------
# `re` lowers the character of the text (one code point to one code point) and looks it up in the set of the
# pattern, whose own characters were lowered and joined by those that share their upper case (`ſ` and `s`, `K`
# and `k`).


@functools.cache
def _folding() -> tuple[dict[int, int], dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]]:
    """(code point -> its lower case, where different), (lower case -> all that lower to it), (its equals)."""
    cased = _cased()
    # U+0130 is the only letter whose lower case has two code points; `re` takes the first.
    lower = {point: ord(chr(point).lower()[0]) for point in cased if chr(point).lower() != chr(point)}
    sources: dict[int, list[int]] = {}
    for point, low in lower.items():
        sources.setdefault(low, []).append(point)
    same_upper: dict[str, list[int]] = {}
    for low in cased:
        if low not in lower:
            same_upper.setdefault(chr(low).upper(), []).append(low)
    equals = {low: tuple(group) for group in same_upper.values() if len(group) > 1 for low in group}
    return lower, {low: tuple(points) for low, points in sources.items()}, equals


def _cased() -> list[int]:
    """Every character that changes when its case does, found block by block: most blocks have none."""
    characters = _every_character()
    found: list[int] = []
    for start in range(0, MAX + 1, 256):
        block = characters[start : start + 256]
        if block.upper() != block or block.lower() != block:
            found += (start + i for i, c in enumerate(block) if c.upper() != c or c.lower() != c)
    return found


def ignore_case(ranges: Ranges, *, ascii_only: bool) -> Ranges:
    """The characters that match one of `ranges` under `re.IGNORECASE`."""
    if ascii_only:
        swapped = [
            (low ^ 0x20, high ^ 0x20)
            for block in (((0x41, 0x5A),), ((0x61, 0x7A),))
            for low, high in intersection(ranges, block)
        ]
        return union([*ranges, *swapped])
    lower, sources, equals = _folding()
    wanted: set[int] = set()
    for point in _cased_in(ranges):
        low = lower.get(point, point)
        wanted.update(equals.get(low, (low,)))
    # A character stays in the set when its lower case is wanted, or when it has no case and was there before.
    kept = intersection(ranges, _caseless())
    found = [
        point for low in wanted for point in (*sources.get(low, ()), low) if lower.get(point, point) == low
    ]
    return union([*kept, *((point, point) for point in found)])


@functools.cache
def _caseless() -> Ranges:
    lower, sources, equals = _folding()
    return complement(union((point, point) for point in {*lower, *sources, *equals}))


def _cased_in(ranges: Ranges) -> Iterable[int]:
    for low, high in intersection(ranges, complement(_caseless())):
        yield from range(low, high + 1)
