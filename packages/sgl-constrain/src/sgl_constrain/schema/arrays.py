# SPDX-License-Identifier: Apache-2.0
"""Conditions on arrays -> expressions. Counting items is a repetition; counting items of a kind (`contains`)
or remembering which were seen (`uniqueItems`) is a state for each count or set.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import product
from typing import TYPE_CHECKING, Any, cast

from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.expression import EMPTY, ENDLESS, FAIL
from sgl_constrain.schema.conditions import Arrays
from sgl_constrain.schema.strings import escape
from sgl_constrain.schema.terms import ANYTHING, NEVER, Term, meet, opposite

if TYPE_CHECKING:
    from sgl_constrain.schema.writing import Writer

_MOST_COUNTS = 4000  # states of counting for `contains`
_MOST_VALUES = 64  # different values of items that must not repeat


def write_array(writer: Writer, array: Arrays) -> int:
    if array.unique and array.high not in (0, 1):
        values = _values_by_place(writer, array)
        if values is not None:
            return _Different(writer, array, values).write()
        reason = f"items must be one of at most {_MOST_VALUES} known values"
        writer.refuse("uniqueItems", "not beside contains" if array.contains else reason)
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
    far = max(len(array.prefix), array.low, array.high or 0, *(kind.start for kind in kinds)) + 1
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
        options = [layout.close_array if items else e.literal("]")] if enough and items >= array.low else []
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
        if index < kind.start:
            choices.append([(ANYTHING, count)])
            continue
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


def _values_by_place(writer: Writer, array: Arrays) -> list[list[bytes]] | None:
    """The texts of all values that the items of the prefix, and those after it, can have, if they are few."""
    if array.contains:
        return None
    prefix = array.prefix if array.high is None else array.prefix[: array.high]
    found = [_item_values(writer, term) for term in prefix]
    found.append([] if array.high == len(prefix) else _item_values(writer, array.rest))
    known = [texts for texts in found if texts is not None]
    few = len({text for texts in known for text in texts}) <= _MOST_VALUES
    return known if len(known) == len(found) and few else None


def _item_values(writer: Writer, term: Term) -> list[bytes] | None:
    if term == NEVER:
        return []
    values = writer.reader.values(term)
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
    return sorted(set(texts))


class _Different:
    """Each text at most once: an expression for each set of texts already used, made when it is first
    needed. How many were used says which item comes next.
    """

    def __init__(self, writer: Writer, array: Arrays, values: list[list[bytes]]) -> None:
        self._writer = writer
        self._array = array
        self._texts = sorted({text for texts in values for text in texts})
        number = {text: i for i, text in enumerate(self._texts)}
        self._places = [[number[text] for text in texts] for texts in values]
        self._finishes: dict[int, bool] = {}

    def write(self) -> int:
        e = self._writer.expressions
        if not self._can_finish(0):
            return FAIL
        self._after = e.source(self._make, witness=lambda _: EMPTY)
        return e.sequence(self._writer.layout.open_array, self._after(0))

    def _unused(self, used: int) -> list[int]:
        """The texts that may come next."""
        count = used.bit_count()
        if self._array.high is not None and count >= self._array.high:
            return []
        place = self._places[min(count, len(self._places) - 1)]
        return [i for i in place if not used >> i & 1]

    def _can_finish(self, used: int) -> bool:
        count, prefix = used.bit_count(), len(self._places) - 1
        missing = self._array.low - count
        if missing <= 0:
            return True
        if count >= prefix:  # all the places left are alike
            room = missing if self._array.high is None else self._array.high - count
            return missing <= min(room, len(self._unused(used)))
        known = self._finishes.get(used)
        if known is None:
            if len(self._finishes) > _MOST_COUNTS:
                message = f"'uniqueItems' takes more than {_MOST_COUNTS} states"
                raise GrammarTooLarge(message, limit="states")
            known = any(self._can_finish(used | 1 << i) for i in self._unused(used))
            self._finishes[used] = known
        return known

    def _make(self, state: Hashable) -> int:
        used = cast(int, state)
        e, layout = self._writer.expressions, self._writer.layout
        options: list[int] = []
        if used.bit_count() >= self._array.low:
            options.append(layout.close_array if used else e.literal("]"))
        following = {
            self._texts[i]: self._after(used | 1 << i)
            for i in self._unused(used)
            if self._can_finish(used | 1 << i)
        }
        options.append(e.sequence(layout.comma if used else EMPTY, e.words(following)))
        return e.choice(options)
