# SPDX-License-Identifier: Apache-2.0
"""`Matcher`: one text being generated under a grammar, and the functions that fill bitmasks for a batch of
them.

A matcher is the list of states it went through: `fork` copies it, `rollback` shortens it. All knowledge is
the grammar's. Bitmasks are int32 words, bit i % 32 of word i // 32 for token i, one row a request.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.grammar import Grammar
from sgl_constrain.states import DEAD, DONE


class Jump(NamedTuple):
    """Forced text as tokens: take back `drop` tokens already emitted, then emit `tokens`."""

    drop: int
    tokens: tuple[int, ...]


class Matcher:
    """Not thread-safe: it belongs to one request."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._states = [grammar.start]

    @property
    def state(self) -> int:
        return self._states[-1]

    # -- which tokens may come next --------------------------------------------------------------------------

    def fill_bitmask(self, out: Any, row: int = 0) -> None:
        """Write the mask into row `row` of `out`, [n, words] int32: a numpy array or anything that shares
        memory with one through `numpy.asarray`, such as a torch tensor on the CPU.
        """
        self.grammar.write_mask(self._states[-1], np.asarray(out), row)

    def mask_id(self) -> int:
        """The number of the mask among `grammar.masks()`."""
        return self.grammar.mask_id(self.state)

    def allowed_token_ids(self) -> NDArray[np.int64]:
        """In ascending order; the tokens that end the text are among them where it may end."""
        bits = np.unpackbits(self.grammar.mask(self.state).view(np.uint8), bitorder="little")
        return np.flatnonzero(bits)

    # -- going on and going back -----------------------------------------------------------------------------

    def accept_token(self, token: int) -> bool:
        """Go on with `token`; False, and nothing changes, when it is not allowed."""
        state = self.grammar.step(self.state, token)
        if state != DEAD:
            self._states.append(state)
        return state != DEAD

    def accept_tokens(self, tokens: Iterable[int]) -> int:
        """Go on with the tokens up to the first that is not allowed; returns how many were accepted."""
        accepted = 0
        for token in tokens:
            if not self.accept_token(token):
                break
            accepted += 1
        return accepted

    def accept_bytes(self, data: bytes) -> bool:
        """Go on with text that is not a token; for `rollback` it counts as one."""
        state = self.grammar.step_bytes(self.state, data)
        if state != DEAD:
            self._states.append(state)
        return state != DEAD

    def validate_tokens(self, tokens: Iterable[int]) -> int:
        """How many of the tokens could be accepted in a row; nothing changes."""
        return self.fork().accept_tokens(tokens)

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens."""
        if not 0 <= count < len(self._states):
            raise ValueError(f"cannot take back {count} of {len(self._states) - 1} tokens")
        del self._states[len(self._states) - count :]

    def fork(self) -> Matcher:
        """An independent matcher at the same point, with the same past."""
        twin = Matcher(self.grammar)
        twin._states = self._states.copy()
        return twin

    def reset(self) -> None:
        del self._states[1:]

    # -- endings ---------------------------------------------------------------------------------------------

    def is_complete(self) -> bool:
        """May the text end here?"""
        return self.grammar.accepts(self.state)

    def is_terminated(self) -> bool:
        """Has a token that ends the text been accepted?"""
        return self.state == DONE

    # -- jumping forward -------------------------------------------------------------------------------------

    def jump_forward_bytes(self) -> bytes:
        """The text that must follow, in whole characters; empty where there is a choice or the text
        may end.
        """
        return self.grammar.forced(self.state)

    def jump_forward_tokens(self, encode: Callable[[bytes], Sequence[int]], tail: Sequence[int] = ()) -> Jump:
        """The text that must follow, as the tokens the model itself would most likely have written: the
        tokenizer's, whatever text comes after.

        `encode` is the tokenizer, without special tokens; it is given whole characters only. `tail`: the last
        tokens already accepted, which the forced text may merge with. Forced text often ends inside what will
        be one token with the text after it, and such a token may also change those before it. So wherever,
        in the forced text, a token could begin that reaches beyond its end as the grammar allows, only the
        tokens stay that are the same when the text stops there; the others are left to the model. For a
        tokenizer that merges pairs (BPE) these are the canonical ones: a boundary between two of its tokens
        parts the text before it from all influence of the text after it.

        Nothing is accepted: apply the jump with `rollback` and `accept_tokens`.
        """
        forced = self.jump_forward_bytes()
        nothing = Jump(0, ())
        if not forced or len(tail) >= len(self._states):
            return nothing
        vocabulary = self.grammar.vocabulary
        tail = self._from_a_character_on(tail)
        written = vocabulary.join(tail)
        text = written + forced
        if _within_character(text, 0):
            return nothing
        tokens = list(encode(text))
        if vocabulary.join(tokens) != text:
            return nothing  # the tokenizer changes the text: its tokens would not be accepted
        stops = list(accumulate(len(vocabulary[token]) for token in tokens))
        kept = len(tokens)
        end = self.grammar.step_bytes(self.state, forced)
        longest = len(vocabulary.trie.levels)
        for begin in range(len(text) - 1, max(-1, len(text) - longest), -1):
            if self._reaches_beyond(text[begin:], end):
                kept = min(kept, _in_common(tokens, encode(text[: _character_at(text, begin)])))
        if kept == 0 or stops[kept - 1] <= len(written):
            return nothing
        same = _in_common(tokens[:kept], tail)
        return Jump(len(tail) - same, tuple(tokens[same:kept]))

    def _from_a_character_on(self, tail: Sequence[int]) -> Sequence[int]:
        """`tail` without the tokens at its start that begin inside a character."""
        first = 0
        while first < len(tail) and _within_character(self.grammar.vocabulary[tail[first]], 0):
            first += 1
        return tail[first:]

    def _reaches_beyond(self, rest: bytes, end: int) -> bool:
        """Does some token begin with `rest` and go on as the grammar allows in the state `end`?"""
        words = self.grammar.vocabulary.trie.words
        place = bisect_right(words, rest)
        while place < len(words) and words[place].startswith(rest):
            word, state, read = words[place], end, len(rest)
            while state != DEAD and read < len(word):
                state = self.grammar.step_bytes(state, word[read : read + 1])
                read += 1
            if state != DEAD:
                return True
            # None that begins alike is allowed: on to the first that does not.
            place = bisect_left(words, True, place, key=lambda other: not other.startswith(word[:read]))
        return False


def _in_common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their start."""
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


def _within_character(text: bytes, place: int) -> bool:
    return place < len(text) and text[place] & 0xC0 == 0x80


def _character_at(text: bytes, place: int) -> int:
    """Where the character begins that the byte at `place` belongs to."""
    while place > 0 and _within_character(text, place):
        place -= 1
    return place


def allocate_bitmask(rows: int, vocabulary_size: int) -> NDArray[np.int32]:
    """[rows, ceil(vocabulary_size / 32)] int32, everything allowed."""
    return np.full((rows, (vocabulary_size + 31) // 32), -1, dtype=np.int32)


def fill_bitmask_batch(
    matchers: Sequence[Matcher | None], out: Any, rows: Sequence[int] | None = None
) -> None:
    """Fill a row for each matcher: `rows[i]`, or i. A None allows everything."""
    target = np.asarray(out)
    for row, matcher in zip(range(len(matchers)) if rows is None else rows, matchers, strict=True):
        if matcher is None:
            target[row] = -1
        else:
            matcher.grammar.write_mask(matcher.state, target, row)


def apply_bitmask(logits: NDArray[np.floating[Any]], bitmask: NDArray[np.int32]) -> None:
    """In place: logits [..., V] of forbidden tokens become -inf. bitmask [..., ceil(V / 32)]."""
    bits = np.unpackbits(np.ascontiguousarray(bitmask).view(np.uint8), axis=-1, bitorder="little")
    logits[bits[..., : logits.shape[-1]] == 0] = -np.inf
