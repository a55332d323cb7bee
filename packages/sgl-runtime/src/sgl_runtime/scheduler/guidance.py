# SPDX-License-Identifier: Apache-2.0
"""`Guidance`: what grammars have to say about the requests of a scheduler, from arrival to the last token.

It waits for grammars, sets requests out in them, follows their tokens and answers for masks. Whatever goes
wrong in a grammar comes back as the end of its request. Knows no rows and no batches.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from sgl_constrain import ConstrainError

from sgl_runtime import log
from sgl_runtime.messages import I32, Aborted, Constraint, Finish
from sgl_runtime.scheduler.constraint import CompiledGrammar, Constrained, Encode, Grammars
from sgl_runtime.scheduler.jump import follow, look_ahead
from sgl_runtime.scheduler.request import Request, out_of_memory

_logger = log.logger(__name__)


class Guidance:
    def __init__(self, grammars: Grammars | None, encode: Encode | None, *, jump: bool, slots: int) -> None:
        """`grammars`: None where nothing can be constrained; `encode`: None if nothing is known of the tokens
        of forced text; `slots`: of the KV pool, which a jump must not exceed."""
        self.available = grammars is not None
        self._grammars = grammars
        self._encode = encode if encode is not None else _encode_nothing
        self._jump = jump
        self._slots = slots
        self._waiting: dict[str, tuple[Request, Future[CompiledGrammar]]] = {}  # in order of arrival

    @property
    def grammars(self) -> Grammars | None:
        return self._grammars

    def __len__(self) -> int:
        """How many requests wait for their grammars."""
        return len(self._waiting)

    def wait(self, request: Request, constraint: Constraint) -> None:
        """Keep a request until its grammar is compiled."""
        assert self._grammars is not None, "asked only where it is available"
        self._waiting[request.rid] = request, self._grammars.ask(constraint)

    def forget(self, request: Request) -> None:
        """It need not wait any more, if it does."""
        self._waiting.pop(request.rid, None)

    def begin(self) -> list[tuple[Request, Finish | None]]:
        """Requests whose grammars are ready: with what is forced in their outputs already; with a finish if
        there is nothing to compute, or no way to."""
        ready = [(request, future) for request, future in self._waiting.values() if future.done()]
        for request, _ in ready:
            del self._waiting[request.rid]
        return [(request, self._begin(request, future)) for request, future in ready]

    def follow(self, request: Request) -> Finish | None:
        """The last token of the output was sampled and did not end it: what follows is appended to it."""
        return self._within_memory(request, lambda: follow(request, self._encode, jump=self._jump))

    def mask(self, request: Request) -> I32 | Aborted:
        """Which tokens may come next."""
        assert request.constrained is not None, "constrained from its start to its end"
        try:
            return request.constrained.mask(len(request.output))
        except ConstrainError as error:
            return _cannot_follow(error)

    def _begin(self, request: Request, future: Future[CompiledGrammar]) -> Finish | None:
        error = future.exception()
        if error is None:
            shortest = request.sampling.min_new_tokens
            request.constrained = Constrained(future.result(), ends=request.stop.tokens, shortest=shortest)
            return self._within_memory(request, lambda: look_ahead(request, self._encode, jump=self._jump))
        if isinstance(error, ConstrainError):
            return Aborted(str(error), invalid=True)
        _logger.error("compiling a constraint failed", exc_info=error)
        return Aborted(
            f"compiling the constraint failed ({type(error).__name__}); the server's log says more"
        )

    def _within_memory(self, request: Request, go_on: Callable[[], Finish | None]) -> Finish | None:
        before = request.known
        try:
            finish = go_on()
        except ConstrainError as error:
            return _cannot_follow(error)
        if finish is None and before < request.known > self._slots:
            return out_of_memory(request, request.known, self._slots)
        return finish


def _cannot_follow(error: ConstrainError) -> Aborted:
    return Aborted(f"the constraint cannot be followed: {error}", invalid=True)


def _encode_nothing(text: bytes) -> list[int]:
    return []
