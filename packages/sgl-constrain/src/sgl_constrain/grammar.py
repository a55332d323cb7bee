# SPDX-License-Identifier: Apache-2.0
"""`Grammar`: a language over one vocabulary, as a pure function of an int state. Shared by every request that
uses it.

States, transitions and masks are made when first asked for and kept. A state is a number, so copying, rolling
back and searching a tree of continuations cost nothing; `Matcher` is the convenient shell around it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.automaton import Automaton
from sgl_constrain.engine import ways
from sgl_constrain.expression import FAR
from sgl_constrain.slices import Slices
from sgl_constrain.states import DEAD, DONE
from sgl_constrain.trie import Bits
from sgl_constrain.vocabulary import Vocabulary

_FORCED_BYTES = 4096  # `forced` looks no further ahead; the next call goes on from there
_BYTES_PER_STEP, _BYTES_PER_MASK = 120, 250


class _Mask:
    """kept: as `Ways` keeps it. array: of it, as long as someone holds one."""

    __slots__ = ("array", "kept", "number")

    def __init__(self, number: int, kept: Any) -> None:
        self.number = number
        self.kept = kept
        self.array: Callable[[], NDArray[np.int32] | None] = _nothing


def _nothing() -> None:
    return None


class Grammar:
    """Thread-safe. Every method is a pure function of its arguments; GrammarTooLarge ends what grows
    too far.
    """

    def __init__(
        self, automaton: Automaton, vocabulary: Vocabulary, slices: Slices, *, warnings: Iterable[str] = ()
    ) -> None:
        """slices: of the vocabulary, over the heads of the automaton's expressions."""
        self._expressions = automaton.expressions
        self.vocabulary = vocabulary
        self.start: int = automaton.start
        self.warnings = tuple(warnings)
        self.epoch = 0  # counts how often masks were dropped: mask ids are valid within one epoch
        self._automaton = automaton
        self._ways = ways(automaton, vocabulary, slices)
        self._write = self._ways.write
        self._lock = threading.RLock()
        self._steps: dict[int, int] = {}  # by state << 8 | byte: those taken by texts, not by walks
        self._mask_of: dict[int, _Mask] = {}  # by state
        self._standing: dict[int, _Mask] = {}  # by state << 1 | may it end, of those that stand for others
        self._masks: dict[bytes, _Mask] = {}  # by `Ways.key`, in the order of their numbers
        self._mask_bytes = 0

    def __del__(self) -> None:
        self._expressions.close()

    def step(self, state: int, token: int) -> int:
        """The state after `token`, DEAD when it is not allowed, DONE when it ends the text."""
        if token in self.vocabulary.eos:
            return DONE if self.accepts(state) else DEAD
        data = self.vocabulary[token]
        return self.step_bytes(state, data) if data else DEAD

    def step_bytes(self, state: int, data: bytes) -> int:
        """The state after `data`, which may begin and end inside a character; DEAD when it is not allowed."""
        steps = self._steps
        for byte in data:
            target = steps.get(state << 8 | byte)
            state = self._target(state, byte) if target is None else target
            if state == DEAD:
                break
        return state

    def _target(self, state: int, byte: int) -> int:
        with self._lock:
            self._automaton.start_clock(step=True)
            if len(self._steps) > self._automaton.limits.states:
                self._steps.clear()
            target = self._steps[state << 8 | byte] = self._automaton.step(state, byte)
        return target

    def accepts(self, state: int) -> bool:
        """May the text end here?"""
        return self._automaton.accepts(state)

    def mask(self, state: int) -> NDArray[np.int32]:
        """[vocabulary.words] int32, read-only: bit i % 32 of word i // 32 is set when token i may
        come next. States with equal masks have the same object, as long as it is held.
        """
        mask = self._mask(state)
        array = mask.array()
        if array is None:
            array = self._ways.array(mask.kept)
            mask.array = weakref.ref(array)
        return array

    def write_mask(self, state: int, out: NDArray[np.int32], row: int) -> None:
        """The same into a row of `out`, [n, vocabulary.words]."""
        mask = self._mask_of.get(state) or self._mask(state)
        try:
            self._write(mask.kept, out, row)
        except (BufferError, ValueError):  # not in one piece, or of another type
            out[row] = self.mask(state)

    def mask_id(self, state: int) -> int:
        """The number of the state's mask: states with equal masks share one, counted 0, 1, 2 within
        an epoch.
        """
        return self._mask(state).number

    def _mask(self, state: int) -> _Mask:
        known = self._mask_of.get(state)
        if known is None:
            with self._lock:
                self._automaton.start_clock(step=True)
                known = self._mask_of[state] = self._make_mask(state)
        return known

    def masks(self, first: int = 0) -> NDArray[np.int32]:
        """[n - first, vocabulary.words] int32: the masks numbered first, first + 1, ..., for upload to a
        device.
        """
        with self._lock:
            kept = [mask.kept for mask in list(self._masks.values())[first:]]
        rows = np.empty((len(kept), self.vocabulary.words), dtype=np.int32)
        for row, mask in enumerate(kept):
            self._write(mask, rows, row)
        return rows

    def forced(self, state: int) -> bytes:
        """The longest string of whole characters that every continuation of the text starts with.

        Empty where the text may end. At most about 4,096 bytes: ask again from the state after them.
        """
        forced = bytearray()
        whole = 0
        with self._lock:
            self._automaton.start_clock(step=True)
            while len(forced) < _FORCED_BYTES:
                byte = self._automaton.only_byte(state)
                if byte is None:
                    break
                forced.append(byte)
                state = self._automaton.step(state, byte)
                if not self._automaton.within_character(state):
                    whole = len(forced)
        return bytes(forced[:whole])

    def warm(self, texts: Iterable[str | bytes] = (), *, seconds: float = 0.05) -> int:
        """Make the masks met on the way through `texts` (and the first one) ahead of time; returns how many
        are ready.

        For a background thread: stops after `seconds`, or where a text leaves the language.
        """
        deadline = time.monotonic() + seconds
        self.mask_id(self.start)
        for text in texts:
            state = self.start
            for byte in text.encode() if isinstance(text, str) else text:
                state = self._target(state, byte)
                if state == DEAD or time.monotonic() > deadline:
                    break
                self.mask_id(state)
        return len(self._mask_of)

    @property
    def nbytes(self) -> int:
        """About how much memory the grammar holds now."""
        return (
            self._mask_bytes
            + self._ways.nbytes
            + self._automaton.nbytes
            + self._expressions.nbytes
            + len(self._steps) * _BYTES_PER_STEP
        )

    def _make_mask(self, state: int) -> _Mask:
        if state in (DEAD, DONE):
            return self._shared(np.zeros(self.vocabulary.words * 4, dtype=np.uint8), state == DONE)
        most, may_end = self.vocabulary.trie.depth, self._automaton.accepts(state)
        simpler, farthest = self._automaton.unbounded(state, most)
        mask = self._mask_from(simpler, may_end)
        if farthest != FAR and self._automaton.farther > farthest:
            mask = self._mask_from(self._automaton.unbounded(state, most, products=False)[0], may_end)
        return mask

    def _mask_from(self, state: int, may_end: bool) -> _Mask:
        """The mask of all states for which a state stands, which may end, or not."""
        known = self._standing.get(state << 1 | may_end)
        if known is None:
            known = self._shared(self._ways.mask(state), may_end)
            self._standing[state << 1 | may_end] = known
        return known

    def _shared(self, packed: Bits, may_end: bool) -> _Mask:
        """The one mask with these bits, and those of the tokens that end the text."""
        if may_end:
            for token in self.vocabulary.eos:
                packed[token >> 3] |= 1 << (token & 7)
        key = self._ways.key(packed)
        known = self._masks.get(key)
        if known is not None and not self._ways.equal(known.kept, packed):
            key = packed.tobytes()  # two masks with one key
            known = self._masks.get(key)
        if known is None:
            kept, size = self._ways.kept(key, packed)
            size += _BYTES_PER_MASK
            if self._mask_bytes + size > self._automaton.limits.mask_bytes:
                self.epoch += 1
                self._mask_of, self._standing, self._masks, self._mask_bytes = {}, {}, {}, 0
            self._mask_bytes += size
            known = self._masks[key] = _Mask(len(self._masks), kept)
        return known
