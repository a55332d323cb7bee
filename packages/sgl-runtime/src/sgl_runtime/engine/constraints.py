# SPDX-License-Identifier: Apache-2.0
"""`Constraints`: refuses what cannot be enforced, before anything is sent.

The replicas compile again, over their model's tokens; here it is done over bytes, on a thread of its own and
once for each constraint, and only the verdict is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from sgl_constrain import ConstrainError, GrammarTooLarge

from sgl_runtime.errors import InvalidRequest, Overloaded
from sgl_runtime.messages import Constraint
from sgl_runtime.text.constraints import LIMITS, byte_compiler, compile_constraint

_VERDICTS = 4096  # remembered
_VERDICT_CHARS = 1000
_PATIENCE_S = 20.0  # what has waited for longer is not compiled any more: poison does not pile up


class Constraints:
    """All methods belong to one event loop."""

    def __init__(self) -> None:
        self._compiler = byte_compiler()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="constraints")
        self._verdicts: OrderedDict[bytes, str | None] = OrderedDict()  # None: it compiles
        self._open: dict[bytes, asyncio.Future[str | None]] = {}

    async def check(self, constraint: Constraint, param: str) -> None:
        """Raises InvalidRequest that names `param` and what in it is wrong; Overloaded after a long wait for
        others."""
        key = hashlib.sha256(f"{constraint.kind}\0{constraint.text}".encode()).digest()
        if key in self._verdicts:
            self._verdicts.move_to_end(key)
            wrong = self._verdicts[key]
        else:
            wrong = await self._compile(key, constraint)
        if wrong is not None:
            raise InvalidRequest(f"{param}: {wrong}", param=param)

    async def _compile(self, key: bytes, constraint: Constraint) -> str | None:
        running = self._open.get(key)
        if running is None:
            loop = asyncio.get_running_loop()
            until = time.monotonic() + _PATIENCE_S
            running = self._open[key] = loop.run_in_executor(self._thread, self._verdict, constraint, until)
            running.add_done_callback(lambda future: self._keep(key, future))
        # Whoever asked first may leave; the others still want to know.
        return await asyncio.shield(running)

    def _keep(self, key: bytes, future: asyncio.Future[str | None]) -> None:
        del self._open[key]
        if not future.cancelled() and future.exception() is None:
            self._verdicts[key] = future.result()
            if len(self._verdicts) > _VERDICTS:
                self._verdicts.popitem(last=False)

    def _verdict(self, constraint: Constraint, until: float) -> str | None:
        if time.monotonic() > until:
            raise Overloaded(
                f"other requests' constraints have been compiled for {_PATIENCE_S:g} s: try again later"
            )
        try:
            compile_constraint(self._compiler, constraint)
        except GrammarTooLarge as error:
            return f"more than this server compiles: {error}; at most {LIMITS.seconds:g} s are spent on one"
        except ConstrainError as error:
            return _shorten(str(error))
        return None


def _shorten(text: str) -> str:
    """What is remembered of a refusal, which may quote a name as long as the source."""
    return text if len(text) <= _VERDICT_CHARS else f"{text[: _VERDICT_CHARS - 3]}..."
