# SPDX-License-Identifier: Apache-2.0
"""`Grammar`: a language over one vocabulary, as a pure function of an int state. Shared by every request that
uses it.

States, transitions and masks are made when first asked for and kept. A state is a number, so copying, rolling
back and searching a tree of continuations cost nothing; `Matcher` is the convenient shell around it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.automaton import DEAD, DONE, Automaton
from sgl_constrain.expression import ENDLESS
from sgl_constrain.slices import Slices
from sgl_constrain.vocabulary import Vocabulary
from sgl_constrain.walk import Rows, Walk

_FORCED_BYTES = 4096  # `forced` looks no further ahead; the next call goes on from there
_BYTES_PER_STATE = 400  # what a state costs beside rows and masks, roughly


class _Mask(NamedTuple):
    number: int
    bits: NDArray[np.int32]


class Grammar:
    """Thread-safe. Every method is a pure function of its arguments; GrammarTooLarge ends what grows
    too far.
    """

    def __init__(
        self, automaton: Automaton, vocabulary: Vocabulary, slices: Slices, *, warnings: Iterable[str] = ()
    ) -> None:
        self.vocabulary = vocabulary
        self.start: int = automaton.start
        self.warnings = tuple(warnings)
        self.epoch = 0  # counts how often masks were dropped: mask ids are valid within one epoch
        self._automaton = automaton
        self._slices = slices
        self._rows = Rows(automaton)
        self._walks: dict[int | None, Walk] = {
            None: Walk(automaton, self._rows, vocabulary.trie)
        }  # by the head of their slice
        self._lock = threading.RLock()
        self._mask_of: dict[int, _Mask] = {}  # by state
        self._masks: dict[bytes, _Mask] = {}  # by content, in the order of their numbers

    def step(self, state: int, token: int) -> int:
        """The state after `token`, DEAD when it is not allowed, DONE when it ends the text."""
        if token in self.vocabulary.eos:
            return DONE if self.accepts(state) else DEAD
        data = self.vocabulary[token]
        return self.step_bytes(state, data) if data else DEAD

    def step_bytes(self, state: int, data: bytes) -> int:
        """The state after `data`, which may begin and end inside a character; DEAD when it is not allowed."""
        for byte in data:
            state = self._target(state, byte)
            if state == DEAD:
                break
        return state

    def _target(self, state: int, byte: int) -> int:
        moves = self._automaton.known_moves[state]
        if moves is None:
            with self._lock:
                self._automaton.start_clock()
                moves = self._automaton.moves(state)
        for mask, target in moves:
            if mask >> byte & 1:
                return target
        return DEAD

    def accepts(self, state: int) -> bool:
        """May the text end here?"""
        return self._automaton.accepts(state)

    def mask(self, state: int) -> NDArray[np.int32]:
        """[vocabulary.words] int32, read-only: bit i % 32 of word i // 32 is set when token i may
        come next.
        """
        return self._mask(state).bits

    def mask_id(self, state: int) -> int:
        """The number of the state's mask: states with equal masks share one, counted 0, 1, 2 within
        an epoch.
        """
        return self._mask(state).number

    def _mask(self, state: int) -> _Mask:
        known = self._mask_of.get(state)
        if known is None:
            with self._lock:
                self._automaton.start_clock()
                bits = self._make_mask(state)
                known = self._shared(bits)
                self._mask_of[state] = known
        return known

    def masks(self, first: int = 0) -> NDArray[np.int32]:
        """[n - first, vocabulary.words] int32: the masks numbered first, first + 1, ..., for upload to a
        device.
        """
        with self._lock:
            rows = [mask.bits for mask in list(self._masks.values())[first:]]
        return np.stack(rows) if rows else np.empty((0, self.vocabulary.words), dtype=np.int32)

    def forced(self, state: int) -> bytes:
        """The longest string of whole characters that every continuation of the text starts with.

        Empty where the text may end. At most about 4,096 bytes: ask again from the state after them.
        """
        forced = bytearray()
        whole = 0
        with self._lock:
            self._automaton.start_clock()
            while len(forced) < _FORCED_BYTES and not self._automaton.accepts(state):
                moves = self._automaton.moves(state)
                if len(moves) != 1 or moves[0][0].bit_count() != 1:
                    break
                forced.append(moves[0][0].bit_length() - 1)
                state = moves[0][1]
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
            len(self._masks) * self.vocabulary.words * 4
            + self._rows.nbytes
            + len(self._automaton.states) * _BYTES_PER_STATE
        )

    def _make_mask(self, state: int) -> NDArray[np.uint8]:
        allowed = self._allowed(state)
        if self.accepts(state):
            allowed[list(self.vocabulary.eos)] = True
        packed = np.zeros(self.vocabulary.words * 4, dtype=np.uint8)
        packed[: (allowed.size + 7) // 8] = np.packbits(allowed, bitorder="little")
        return packed

    def _allowed(self, state: int) -> NDArray[np.bool_]:
        """[size] bool: the tokens whose text may come next."""
        allowed = np.zeros(self.vocabulary.size + 1, dtype=np.bool_)
        if state not in (DEAD, DONE):
            self._rows.trim()
            self._walk_for(state, allowed).mark(state, allowed)
        return allowed[:-1]

    def _walk_for(self, state: int, allowed: NDArray[np.bool_]) -> Walk:
        """The walk that is left to do, with the tokens it need not look at already set in `allowed`."""
        loop = self._automaton.loop(state)
        if loop is not None:
            head, times = loop
            part = self._slices.of(head)
            if part is not None and (times == ENDLESS or times >= part.longest):
                allowed[:] = part.allowed
                if head not in self._walks:
                    self._walks[head] = Walk(self._automaton, self._rows, part.trie)
                return self._walks[head]
        return self._walks[None]

    def _shared(self, packed: NDArray[np.uint8]) -> _Mask:
        """The one mask with these bits."""
        key = packed.tobytes()
        known = self._masks.get(key)
        if known is None:
            if (len(self._masks) + 1) * packed.size > self._automaton.limits.mask_bytes:
                self.epoch += 1
                self._mask_of, self._masks = {}, {}
            bits = np.frombuffer(key, dtype="<i4").astype(np.int32, copy=False)
            bits.flags.writeable = False
            known = self._masks[key] = _Mask(len(self._masks), bits)
        return known
