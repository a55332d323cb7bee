# SPDX-License-Identifier: Apache-2.0
"""One engine in one process: what each case costs it.

    first    seconds from the source text to the first mask, in a process that has never seen the grammar
    cold     seconds of each later mask while a text is written for the first time
    warm     the same masks when the text is written again: the median of three passes
    accept   seconds to go on by one token
    memory   by how much the process has grown when all texts are written; the grammar is kept

Seconds are those of a `Clock`: of the wall, or of the CPU time of the one thread that is measured, which
other processes of a busy machine do not lengthen (nor does it see what an engine does on other threads).

A text is refused when a mask forbids its next token, or its end. That is a fault for a valid text, and what
is wanted for an invalid one. The parent may end the process at any time: a case that takes too long costs
only itself.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from sgl_constrain.bench.cases import Case
from sgl_constrain.bench.engines import Engine, Grammar, Refused, Session, make
from sgl_constrain.bench.tokenizers import Tokenizer, load

PASSES = 3
Clock = Callable[[], float]
CLOCKS: Mapping[str, Clock] = {"wall": time.perf_counter, "cpu": time.thread_time}
_STATM = Path("/proc/self/statm")

Outcome = Literal["ok", "refused", "slow", "crashed"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the engine's tables for the vocabulary cost: seconds, bytes (None where not known)."""

    seconds: float
    memory: int | None


@dataclass(slots=True)
class Measured:
    """Of one case; times in seconds. cut: the walk took too long and not every text was finished."""

    outcome: Outcome
    message: str = ""
    first: float = 0.0
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    accept: list[float] = field(default_factory=list)
    memory: int | None = None
    valid_refused: int = 0
    invalid_accepted: int = 0
    cut: bool = False


def serve(connection: Connection, engine: str, vocabulary: str, limit: float, time_of: str) -> None:
    """The child: says what loading took, then answers each case it is sent, first with "compiled".

    time_of: a name of CLOCKS.
    """
    tokenizer = load(vocabulary)
    clock = CLOCKS[time_of]
    made, loaded = _load(engine, tokenizer, clock)
    connection.send(loaded)
    kept: list[Grammar] = []  # so that memory is never used twice
    while (case := _next(connection)) is not None:
        before = _memory()
        measured, grammar = measure_first(made, case, clock)
        connection.send(measured.outcome)
        if grammar is not None:
            kept.append(grammar)
            deadline = clock() + limit
            measure_valid(made, tokenizer, grammar, case, measured, deadline, clock)
            measured.memory = _growth(before, _memory())
            measure_invalid(made, tokenizer, grammar, case, measured, deadline, clock)
        connection.send(measured)


def _next(connection: Connection) -> Case | None:
    """None when the parent has gone or wants no more."""
    try:
        case: Case = connection.recv()
    except EOFError:
        return None
    return case


def _load(name: str, tokenizer: Tokenizer, clock: Clock) -> tuple[Engine, Loaded]:
    """With one trivial grammar, so that what an engine makes when first used counts as loading."""
    before, start = _memory(), clock()
    engine = make(name, tokenizer)
    engine.compile("regex", "[0-9]{1,3}").session().fill()
    seconds, after = clock() - start, _memory()
    return engine, Loaded(seconds, _growth(before, after))


def measure_first(engine: Engine, case: Case, clock: Clock) -> tuple[Measured, Grammar | None]:
    """From the source to the first mask; no grammar when the engine refuses the case."""
    start = clock()
    try:
        grammar = engine.compile(case.kind, case.source)
        grammar.session().fill()
    except Refused as refusal:
        return Measured("refused", str(refusal)), None
    return Measured("ok", first=clock() - start), grammar


def measure_valid(
    engine: Engine,
    tokenizer: Tokenizer,
    grammar: Grammar,
    case: Case,
    measured: Measured,
    deadline: float,
    clock: Clock,
) -> None:
    """Write the valid texts once, then again, until the deadline of the clock."""
    for text in case.valid:
        tokens = tokenizer.encode(text.encode())
        cold = _walk(engine, tokenizer, grammar.session(), tokens, deadline, clock)
        measured.cold += cold.masks[1:]  # the first is the one of `measure_first`
        measured.valid_refused += cold.ended is False
        again = [_walk(engine, tokenizer, grammar.session(), tokens, deadline, clock) for _ in range(PASSES)]
        whole = [walk.masks for walk in again if walk.ended is not None]
        measured.warm += [statistics.median(times) for times in zip(*whole, strict=True)]
        measured.accept += chain.from_iterable(walk.accepts for walk in again)
        measured.cut |= len(whole) < PASSES


def measure_invalid(
    engine: Engine,
    tokenizer: Tokenizer,
    grammar: Grammar,
    case: Case,
    measured: Measured,
    deadline: float,
    clock: Clock,
) -> None:
    """Try to write the invalid texts."""
    for text in case.invalid:
        walk = _walk(engine, tokenizer, grammar.session(), tokenizer.encode(text.encode()), deadline, clock)
        measured.invalid_accepted += walk.ended is True
        measured.cut |= walk.ended is None


@dataclass(slots=True)
class _Walk:
    """masks: one before each token and one at the end, as far as it got. ended: None when time ran out."""

    masks: list[float]
    accepts: list[float]
    ended: bool | None


def _walk(
    engine: Engine,
    tokenizer: Tokenizer,
    session: Session,
    tokens: Sequence[int],
    deadline: float,
    clock: Clock,
) -> _Walk:
    bits = engine.bitmask[0]
    fill, accept = session
    walk = _Walk([], [], ended=False)
    for token in tokens:
        start = clock()
        fill()
        end = clock()
        walk.masks.append(end - start)
        if end > deadline:
            walk.ended = None
            return walk
        if not bits[token >> 5] >> (token & 31) & 1:
            return walk
        start = clock()
        accepted = accept(token)
        walk.accepts.append(clock() - start)
        if accepted is False:
            return walk
    start = clock()
    fill()
    walk.masks.append(clock() - start)
    walk.ended = any(bits[token >> 5] >> (token & 31) & 1 for token in tokenizer.eos)
    return walk


def _memory() -> int | None:
    """Bytes of memory that the process holds, after giving back what it can; None outside of Linux."""
    if not _STATM.exists():
        return None
    gc.collect()
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if give_back is not None:
        give_back(0)
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def _growth(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(after - before, 0)
