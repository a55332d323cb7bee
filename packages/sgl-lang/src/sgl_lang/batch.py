# SPDX-License-Identifier: Apache-2.0
"""Many runs of one program: so many at once, and what their prompts begin with in common computed once.

The shared prefix is not guessed from the program: the first prompts of the first two runs are compared, and
the others wait that long. So whatever makes them begin alike counts: constants, examples passed to all, text
that was read from a file; and no body runs more often than it is asked to.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Literal

from sgl_lang.backends.protocol import Backend, Prompt
from sgl_lang.errors import ProgramError
from sgl_lang.progress import Progress
from sgl_lang.run import Run
from sgl_lang.speaker import WORTH_WARMING
from sgl_lang.workers import Workers

_PATIENCE_S = 0.2  # for a second prompt, while the first one waits
_CANCEL_S = 3.0  # for what is under way to be given up
_SIGNAL_S = 1.0  # a signal that arrives just before a thread begins to wait does not wake it


def run_all(
    runs: Sequence[tuple[Run, Callable[[], None]]], threads: int, *, name: str, progress: Progress
) -> None:
    """Drive each run to its end, `threads` at a time. Nothing that fails is raised but Ctrl-C."""
    done = 0
    stopped = threading.Event()
    changed = threading.Condition()
    workers = Workers(f"{name} batch", limit=threads)

    def one(drive: Callable[[], None]) -> None:
        nonlocal done
        with suppress(BaseException):  # kept by the run, raised where its state is read
            if not stopped.is_set():
                drive()
        with changed:
            done += 1
            changed.notify_all()

    try:
        for _, drive in runs:
            workers.submit(partial(one, drive))
        with changed:
            while done < len(runs):
                seen = done
                changed.wait_for(lambda seen=seen: done > seen, _SIGNAL_S)  # type: ignore[misc]
                progress.update(done)
        workers.close()
    except KeyboardInterrupt as error:
        stopped.set()
        cancelling = Workers(f"{name} cancel")
        for run, _ in runs:
            cancelling.submit(partial(run.cancel, error))
        cancelling.close(_CANCEL_S)
        workers.close(_SIGNAL_S)
        raise
    finally:
        progress.close()


def thread_count(num_threads: int | Literal["auto"], runs: int) -> int:
    """How many runs at once. ProgramError for what is neither "auto" nor an int of at least 1."""
    if num_threads == "auto":
        return max(1, min(runs, max(96, 16 * (os.cpu_count() or 1))))
    if type(num_threads) is not int or num_threads < 1:
        raise ProgramError(f'num_threads must be "auto" or an int of at least 1, not {num_threads!r}')
    return min(num_threads, max(runs, 1))


class Gate:
    """Holds first prompts back until two are known, and computes what they have in common."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._changed = threading.Condition()
        self._first: Prompt | None = None
        self._opening = False
        self._open = False

    def arrive(self, prompt: Prompt) -> None:
        """Called with a run's first prompt; returns when it may be sent. Raises what `warm` raises."""
        with self._changed:
            if self._open:
                return
            first, self._first = self._first, self._first or prompt
            opens = first is not None and not self._opening
            self._opening = self._opening or opens
            if not opens:
                self._wait()
                return
        assert first is not None
        try:
            self._warm(first, prompt)
        finally:
            with self._changed:
                self._open = True
                self._changed.notify_all()

    def _wait(self) -> None:
        patience = time.monotonic() + _PATIENCE_S
        while not self._open:
            if not self._opening and time.monotonic() >= patience:
                self._open = True
                self._changed.notify_all()
                return
            self._changed.wait(_PATIENCE_S)

    def _warm(self, first: Prompt, second: Prompt) -> None:
        pairs = enumerate(zip(first.text, second.text, strict=False))
        shorter = min(len(first.text), len(second.text))
        common = first.text[: next((place for place, (a, b) in pairs if a != b), shorter)]
        if first.media or second.media:
            common = common.partition(self._backend.chat_template.image_token)[0]
        if len(common) >= WORTH_WARMING:
            self._backend.warm(Prompt(os.urandom(16).hex(), common))
