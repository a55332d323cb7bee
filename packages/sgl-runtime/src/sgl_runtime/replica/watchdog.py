# SPDX-License-Identifier: Apache-2.0
"""`Watchdog`: a thread that notices when the loop of this process stands still, and says where.

A loop that waits for a lock, a kernel or another rank for ever raises nothing, and the process looks well.
Knows of the loop only how many turns it has taken.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

from sgl_runtime import log
from sgl_runtime.messages import Failed
from sgl_runtime.process import ChildPipe

_logger = log.logger(__name__)


class Watchdog:
    """`turns`: how many turns the loop has taken; None while it may sleep as long as it likes."""

    def __init__(
        self, turns: Callable[[], int | None], *, seconds: float, hung: Callable[[str], None]
    ) -> None:
        """`hung` is called on the watchdog's thread, once, when one turn has taken more than `seconds`: with
        the stacks of all threads, and a sentence as the last line."""
        self._turns = turns
        self._seconds = seconds
        self._hung = hung
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        last, since = self._turns(), time.monotonic()
        while not self._stopped.wait(min(1.0, self._seconds / 8)):
            now, turns = time.monotonic(), self._turns()
            if turns is None or turns != last:
                last, since = turns, now
            elif now - since > self._seconds:
                self._hung(
                    f"{_stacks()}\na step has not ended within {self._seconds:g} s (--watchdog-timeout); the"
                    " stacks above say where it hangs"
                )
                return


def end(pipe: ChildPipe, story: str) -> None:
    """The loop hangs: this process cannot be asked to end, and the others must not wait for it."""
    _logger.critical("%s", story)
    pipe.failed(Failed(story))
    signal.raise_signal(signal.SIGKILL)


def _stacks() -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
        if ident != threading.get_ident()
    ]
    return "\n".join(parts)
