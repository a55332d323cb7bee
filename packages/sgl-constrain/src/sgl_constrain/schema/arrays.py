# SPDX-License-Identifier: Apache-2.0
"""Conditions on arrays -> expressions. Counting items is a repetition; counting items of a kind (`contains`)
or remembering which were seen (`uniqueItems`) is a state for each count or set.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any, cast

from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.expression import EMPTY, ENDLESS, FAIL
from sgl_constrain.schema.sets import ANYTHING, Arrays, Term, meet, opposite
from sgl_constrain.schema.strings import escape

if TYPE_CHECKING:
    from sgl_constrain.schema.writing import Writer

_MOST_COUNTS = 4000  # states of counting for `contains`
_MOST_VALUES = 64  # different values of items that must not repeat


def write_array(writer: Writer, array: Arrays) -> int:
    if array.unique and array.high not in (0, 1):
        values = _item_values(writer, array)
        if values is not None:
            return _different(writer, array, values)
        writer.refuse("uniqueItems", f"items must be one of at most {_MOST_VALUES} known values")
    if array.contains:
        return _counted(writer, array)
    return _plain(writer, array)


def _plain(writer: Writer, array: Arrays) -> int:
    """Prefix items one by one, then a repetition."""
    e, layout = writer.expressions, writer.layout
    prefix, high = array.prefix, array.high
    if high is not None:
        prefix = prefix[:high]
    rest = writer.value(array.rest)
    done = len(prefix)
    least = max(array.low - done, 0)
    most = ENDLESS if high is None else high - done
    if done:
        tail = e.repeat(e.sequence(layout.comma, rest), least, most)
    elif most == 0:
        tail = FAIL
    else:
        more = e.repeat(
            e.sequence(layout.comma, rest), max(least - 1, 0), most if most == ENDLESS else most - 1
        )
        tail = e.sequence(rest, more)
    for i in reversed(range(done)):
        here = e.sequence(layout.comma if i else EMPTY, writer.value(prefix[i]), tail)
        tail = e.choice([here, EMPTY]) if i and i >= array.low else here
    nothing = layout.empty_array if array.low == 0 else FAIL
    return e.choice([nothing, e.sequence(layout.open_array, tail, layout.close_array)])


def _counted(writer: Writer, array: Arrays) -> int:
    """A rule for each (items so far, items of each kind so far), as far as the numbers matter."""
    e, layout = writer.expressions, writer.layout
    kinds = sorted(array.contains, key=repr)
    far = max(len(array.prefix), array.low, array.high or 0) + 1
    caps = [kind.low if kind.high is None else kind.high for kind in kinds]
    states = far + 1
    for cap in caps:
        states *= cap + 1
    if states > _MOST_COUNTS:
        raise GrammarTooLarge(
            f"counting for 'contains' takes more than {_MOST_COUNTS} states", limit="states"
        )
    rules: dict[tuple[int, tuple[int, ...]], int] = {}
    pending: list[tuple[int, tuple[int, ...]]] = []

    def state(items: int, counts: tuple[int, ...]) -> int:
        key = (min(items, far), counts)
        if key not in rules:
            rules[key] = e.rule()
            pending.append(key)
        return rules[key]

    start = state(0, (0,) * len(kinds))
    while pending:
        items, counts = pending.pop()
        enough = all(count >= kind.low for count, kind in zip(counts, kinds, strict=True))
        options = (
            [layout.close_array if items else e.sequence(layout.close_array)]
            if enough and items >= array.low
            else []
        )
        if array.high is None or items < array.high:
            for term, found in _sorted_out(array, items, list(zip(kinds, counts, caps, strict=True))):
                comma = layout.comma if items else EMPTY
                options.append(e.sequence(comma, writer.value(term), state(items + 1, found)))
        e.define(rules[items, counts], e.choice(options))
    return e.sequence(layout.open_array, start)


def _sorted_out(
    array: Arrays, index: int, kinds: list[tuple[Any, int, int]]
) -> Iterator[tuple[Term, tuple[int, ...]]]:
    """The ways in which the next item can be of each kind or not: what it must be, and the counts
    after it.
    """
    choices: list[list[tuple[Term, int]]] = []
    for kind, count, cap in kinds:
        is_one: list[tuple[Term, int]] = []
        if kind.high is None:  # one more than needed changes nothing, so an item may be left uncounted
            is_one = [(ANYTHING, count)]
            if count < cap:
                is_one.append((kind.term, count + 1))
        else:
            is_one += ((wrong, count) for wrong in opposite(kind.term))
            if count < cap:
                is_one.append((kind.term, count + 1))
        choices.append(is_one)
    for chosen in product(*choices):
        term = array.item(index)
        for wanted, _ in chosen:
            term = meet(term, wanted)
        yield term, tuple(count for _, count in chosen)


# -- items that must differ ----------------------------------------------------------------------------------


def _item_values(writer: Writer, array: Arrays) -> list[bytes] | None:
    """The texts of all values that an item can have, if they are few."""
    if array.prefix or array.contains:
        return None
    values = writer.reader.values(array.rest)
    if values.arrays or values.objects:
        return None
    texts = [{None: b"null", True: b"true", False: b"false"}[constant] for constant in values.constants]
    for numbers in values.numbers:
        listed = writer.integers(numbers)
        if listed is None:
            return None
        texts += (b"%d" % value for value in listed)
    for strings in values.strings:
        if strings.values is None:
            return None
        texts += (b'"%b"' % escape(v) for v in strings.values if writer.reader.holds(strings, v))
    different = sorted(set(texts))
    return different if len(different) <= _MOST_VALUES else None


def _different(writer: Writer, array: Arrays, texts: list[bytes]) -> int:
    """Each text at most once: an expression for each set of texts already used, made when it is
    first needed.
    """
    e, layout = writer.expressions, writer.layout
    if array.low > len(texts):
        return FAIL
    most = len(texts) if array.high is None else min(array.high, len(texts))

    def make(state: Hashable) -> int:
        used = cast(int, state)
        count = used.bit_count()
        options: list[int] = [layout.close_array] if count >= array.low else []
        if count < most:
            unused: Iterable[int] = (i for i in range(len(texts)) if not used >> i & 1)
            following = e.words({texts[i]: after(used | 1 << i) for i in unused})
            options.append(e.sequence(layout.comma if count else EMPTY, following))
        return e.choice(options)

    after = e.source(make, witness=lambda _: EMPTY)
    return e.sequence(layout.open_array, after(0))
