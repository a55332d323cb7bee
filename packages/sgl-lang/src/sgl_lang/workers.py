# SPDX-License-Identifier: Apache-2.0
"""`Workers`: the threads of one run. There are as many as tasks at once, up to a limit, and none afterwards.

A task may take as long as a model speaks, but must not wait for another one: with the limit reached, that one
may not have begun. Threads are daemons: a program that nobody waits for does not keep the process alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

# The server queues what it cannot compute at once; more threads than this only wait there.
LIMIT = 256


class Workers:
    """Threads that begin when they are needed and end with `close`."""

    def __init__(self, name: str, limit: int = LIMIT) -> None:
        self._name = name
        self._limit = limit
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0  # threads that have nothing to do, less tasks that nobody does yet
        self._lock = threading.Lock()

    def submit(self, task: Callable[[], None]) -> None:
        """Do `task` in a thread. It must not raise."""
        with self._lock:
            self._idle -= 1
            if self._idle < 0 and len(self._threads) < self._limit:
                thread = threading.Thread(target=self._work, name=f"sgl {self._name}", daemon=True)
                self._threads.append(thread)
                self._idle += 1
                thread.start()
        self._tasks.put(task)

    def close(self, timeout: float | None = None) -> None:
        """End the threads once they have done what was submitted; wait at most `timeout` seconds for it."""
        with self._lock:
            threads = tuple(self._threads)
        for _ in threads:
            self._tasks.put(None)
        end = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(None if end is None else max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            with self._lock:
                self._idle += 1
