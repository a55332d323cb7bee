# SPDX-License-Identifier: Apache-2.0
"""`Calls`: calls to a vendor's asynchronous client, from any thread, that can be given up at any moment.

One event loop in a thread of the backend's own carries them out. A blocking client could not be told to stop
while it waits for an answer; a task can, and its connection closes with it. Failed attempts are repeated
here, the same way for every vendor, and errors become those of this package. The file knows no vendor.

    program's thread ──whole / stream──► task on the loop ──► vendor's client
                     ◄───── future ─────           ▲
    any thread ───────────── abort ────────────────┘
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, TypeVar

from sgl_lang.backends._failure import Failure, Patience, lost, transport_errors
from sgl_lang.errors import BackendError, ProgramError

_CLOSE_S = 5.0

T = TypeVar("T")


class Calls:
    """The calls of one backend.

    Args:
        name: the vendor, for messages.
        errors: what the vendor's client raises, beside the errors of its HTTP library.
        failure: what one of these means.
        goodbye: closes the vendor's client; without a hold on the backend, which is closed when forgotten.
        secrets: keys that no message may hold.
        max_retries: how often a call is repeated that failed for a passing reason.
        max_wait: the longest pause before a repetition, in seconds; when more is asked for, the call fails.
    """

    def __init__(
        self,
        name: str,
        *,
        errors: tuple[type[Exception], ...],
        failure: Callable[[Exception], Failure],
        goodbye: Callable[[], Awaitable[None]],
        secrets: tuple[str, ...],
        max_retries: int,
        max_wait: float,
    ) -> None:
        self._name = name
        self._errors = errors
        self._failure = failure
        self._goodbye = goodbye
        self._patience = Patience(max_retries, max_wait, secrets)
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        self._closed = False
        self._under_way: dict[str, Future[Any]] = {}

    def whole(self, rid: str, call: Callable[[], Awaitable[T]]) -> T:
        """What `call` returns. Raises BackendError when it fails for good or is aborted."""

        async def repeated() -> T:
            attempt = 0
            while True:
                try:
                    return await call()
                except (*self._errors, *transport_errors()) as error:
                    failure = self._read(error)
                await self._wait(failure, attempt)
                attempt += 1

        return self._result(self._submit(rid, repeated()))

    def stream(self, rid: str, call: Callable[[], AsyncIterator[T]]) -> Generator[T, None, None]:
        """What `call` yields. Raises like `whole`; what has begun to arrive is not begun anew.

        Closing the generator gives up the rest.
        """
        arrived: SimpleQueue[T | None] = SimpleQueue()

        async def repeated() -> None:
            attempt = 0
            begun = False
            while True:
                try:
                    async for item in call():
                        begun = True
                        arrived.put(item)
                    return
                except (*self._errors, *transport_errors()) as error:
                    failure = self._read(error)
                if begun:
                    failure = replace(failure, again=False)
                await self._wait(failure, attempt)
                attempt += 1

        future = self._submit(rid, repeated())
        future.add_done_callback(lambda _: arrived.put(None))
        try:
            while (item := arrived.get()) is not None:
                yield item
        except BaseException:
            future.cancel()
            raise
        self._result(future)

    def abort(self, rid: str) -> None:
        """Give up the call of this name, if there is one under way."""
        with self._lock:
            future = self._under_way.get(rid)
        if future is not None:
            future.cancel()

    def close(self) -> None:
        """Give up all calls, close the client, and end the thread. Later calls are refused."""
        with self._lock:
            loop, self._loop = self._loop, None
            self._closed = True
            under_way = list(self._under_way.values())
        for future in under_way:
            future.cancel()
        if loop is not None:
            loop.stop()
            loop.thread.join(_CLOSE_S)

    # -- in the caller's thread

    def _submit(self, rid: str, call: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._closed:
                call.close()
                raise ProgramError(f"this {self._name} backend was closed; make a new one")
            if self._loop is None:
                self._loop = _Loop(f"{self._name} calls", self._goodbye)
                weakref.finalize(self, self._loop.stop)
            future = self._loop.submit(call)
            self._under_way[rid] = future
        future.add_done_callback(lambda _: self._forget(rid, future))
        return future

    def _forget(self, rid: str, future: Future[Any]) -> None:
        with self._lock:
            if self._under_way.get(rid) is future:
                del self._under_way[rid]

    def _result(self, future: Future[T]) -> T:
        try:
            return future.result()
        except CancelledError:
            pass  # an error raised in here would drag this one along
        except BaseException:
            future.cancel()
            raise
        raise BackendError(f"{self._name}: the generation was given up")

    # -- on the loop

    def _read(self, error: Exception) -> Failure:
        if isinstance(error, self._errors):
            return self._failure(error)
        return lost(error)

    async def _wait(self, failure: Failure, attempt: int) -> None:
        """Wait until the next attempt. Raises BackendError when there is none."""
        said = replace(failure, message=f"{self._name} {failure.message}")
        await asyncio.sleep(self._patience.pause(said, attempt))


class _Loop:
    """An event loop in a thread of its own, which ends with `goodbye`."""

    def __init__(self, name: str, goodbye: Callable[[], Awaitable[None]]) -> None:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        serve = _serve(started, goodbye)
        self.thread = threading.Thread(target=asyncio.run, args=(serve,), name=name, daemon=True)
        self.thread.start()
        self._loop, self._stop = started.result()

    def submit(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    def stop(self) -> None:
        """Cancel what is running and end the thread, soon. From any thread, this one included."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stop.set)


async def _serve(
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]], goodbye: Callable[[], Awaitable[None]]
) -> None:
    stop = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stop))
    await stop.wait()
    await goodbye()
