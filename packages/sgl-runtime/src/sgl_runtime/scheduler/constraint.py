# SPDX-License-Identifier: Apache-2.0
"""Grammars and where requests are in them.

`Grammars` compiles on a thread of its own and remembers; `Constrained` is one request's place in its grammar:
which tokens it may take next, and whether its text is complete. What the grammar leaves no choice about is
`jump`'s business.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from sgl_constrain import Grammar, Matcher

from sgl_runtime.messages import I32, Constraint

Encode: TypeAlias = Callable[[bytes], list[int]]  # whole characters -> tokens, none of them special

_MOST = 512  # grammars remembered, if memory allows: all are measured together, for 2 ms
_MEASURED_EVERY = 64  # requests: grammars grow while they are used
_REMEMBERED = 16_384  # states of one grammar whose forced texts are kept
_SINGLE = 256  # masks of one token each
_BYTES_PER_FORCED = 200  # roughly: most texts have a few tokens


class CompiledGrammar:
    """A grammar, and what was found out about it, shared by all its requests."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.choices: set[int] = set()  # states met in which neither is anything forced nor the text complete
        self._forced: dict[int, tuple[int, ...]] = {}
        self._single: dict[int, I32] = {}

    @property
    def nbytes(self) -> int:
        """About how much memory it holds now."""
        single = len(self._single) * self.grammar.vocabulary.words * 4
        return self.grammar.nbytes + single + len(self._forced) * _BYTES_PER_FORCED

    def forced(self, matcher: Matcher, encode: Encode) -> tuple[int, ...]:
        """The tokens of the text that must follow, as far as they are certain."""
        known = self._forced.get(matcher.state)
        if known is None:
            known = matcher.jump_forward_tokens(encode).tokens
            if len(self._forced) >= _REMEMBERED:
                self._forced.clear()
            self._forced[matcher.state] = known
        return known

    def single(self, token: int) -> I32:
        """The mask of one token, [words]."""
        known = self._single.get(token)
        if known is None:
            if len(self._single) >= _SINGLE:
                self._single.clear()
            known = np.zeros(self.grammar.vocabulary.words, np.int32)
            _add(known, {token})
            known.flags.writeable = False
            self._single[token] = known
        return known


class Grammars:
    """Of one model. Not thread-safe, but for the compiling that it hands to its thread."""

    def __init__(self, compile: Callable[[Constraint], Grammar], *, cache_bytes: int = 256 << 20) -> None:
        """`compile` raises ConstrainError. cache_bytes: grammars used least recently are forgotten beyond."""
        self._compile = compile
        self._cache_bytes = cache_bytes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")
        self._known: OrderedDict[Constraint, Future[CompiledGrammar]] = OrderedDict()
        self._asked = 0
        self.hits = 0  # asked for when it was known, or being compiled
        self.compiled = 0  # this and the next two are its thread's to write
        self.failed = 0
        self.seconds = 0.0

    def ask(self, constraint: Constraint) -> Future[CompiledGrammar]:
        """The grammar, at once or when it is ready; what failed is tried again."""
        future = self._known.pop(constraint, None)
        if future is None or (future.done() and future.exception() is not None):
            future = self._thread.submit(self._timed, constraint)
        else:
            self.hits += 1
        self._known[constraint] = future
        self._asked += 1
        if self._asked % _MEASURED_EVERY == 0:
            self._trim()
        return future

    def close(self) -> None:
        """End the thread; what was asked for and not begun is cancelled."""
        self._thread.shutdown(cancel_futures=True)

    def _timed(self, constraint: Constraint) -> CompiledGrammar:
        begun = time.monotonic()
        try:
            compiled = self._make(constraint)
        except BaseException:
            self.failed += 1
            raise
        finally:
            self.seconds += time.monotonic() - begun
        self.compiled += 1
        return compiled

    def _make(self, constraint: Constraint) -> CompiledGrammar:
        grammar = self._compile(constraint)
        grammar.mask(grammar.start)
        return CompiledGrammar(grammar)

    def _trim(self) -> None:
        sizes: dict[Constraint, int] = {}
        for constraint, future in list(self._known.items()):
            if future.done():
                if future.exception() is None:
                    sizes[constraint] = future.result().nbytes + sys.getsizeof(constraint.text)
                else:
                    del self._known[constraint]  # an error holds what had been made when it was raised
        held = sum(sizes.values())
        for constraint, size in sizes.items():
            if held <= self._cache_bytes and len(self._known) <= _MOST:
                return
            del self._known[constraint]
            held -= size


class Constrained:
    """One request's place in its grammar; its output is what the grammar has accepted."""

    __slots__ = ("_ends", "_shortest", "_told", "_untold_forced", "_variant", "ahead", "compiled", "matcher")

    def __init__(self, compiled: CompiledGrammar, *, ends: frozenset[int], shortest: int) -> None:
        """`ends`: tokens that end the output, allowed where the text may end. `shortest`: no end before so
        many tokens, unless the text cannot go on."""
        self.compiled = compiled
        self.matcher = Matcher(compiled.grammar)
        self.ahead: deque[int] = deque()  # forced tokens that are sampled nevertheless, one by one
        self._ends = ends
        self._shortest = shortest
        self._told = 0  # output tokens that its sender knows of
        self._untold_forced = 0
        # The last mask that had to be changed since other tokens end this text: as it was, how, and changed.
        self._variant: tuple[I32, bool, I32] | None = None

    def mask(self, generated: int) -> I32:
        """Which tokens may be number `generated` of the output, counted from 0: [words], read-only, the same
        object for equal masks as far as it is known. Raises GrammarTooLarge."""
        if self.ahead:
            return self.compiled.single(self.ahead[0])
        grammar, state = self.compiled.grammar, self.matcher.state
        bits = grammar.mask(state)
        early = generated < self._shortest
        if not grammar.accepts(state) or (not early and self._ends == set(grammar.vocabulary.eos)):
            return bits
        if self._variant is None or self._variant[0] is not bits or self._variant[1] is not early:
            changed = _without(bits, grammar.vocabulary.eos)
            if not early:
                _add(changed, self._ends)
            changed.flags.writeable = False
            self._variant = bits, early, changed
        return self._variant[2]

    def accept(self, token: int, *, forced: bool = False) -> None:
        """Go on with a token that the mask allows and that ends nothing; `forced`: no pass has sampled it.
        Raises GrammarTooLarge."""
        accepted = self.matcher.accept_token(token)
        assert accepted, "a token that the grammar does not allow was sampled"
        if self.ahead:
            expected = self.ahead.popleft()
            assert token == expected, "another token than the forced one was sampled"
        self._untold_forced += forced

    def is_complete(self) -> bool:
        """Nothing may follow but the end. Raises GrammarTooLarge."""
        grammar, state = self.compiled.grammar, self.matcher.state
        if not grammar.accepts(state):
            return False
        return not _without(grammar.mask(state), grammar.vocabulary.eos).any()

    def news(self, output: list[int]) -> tuple[list[int], int]:
        """What its sender does not know of the output, and how many of these tokens were forced."""
        tokens, forced = output[self._told :], self._untold_forced
        self._told, self._untold_forced = len(output), 0
        return tokens, forced


def _without(bits: I32, tokens: tuple[int, ...]) -> I32:
    copy = bits.copy()
    view = copy.view(np.uint32)
    for token in tokens:
        view[token >> 5] &= np.uint32(~(1 << (token & 31)) & 0xFFFFFFFF)
    return copy


def _add(bits: I32, tokens: Iterable[int]) -> None:
    view = bits.view(np.uint32)
    for token in tokens:
        view[token >> 5] |= np.uint32(1 << (token & 31))
