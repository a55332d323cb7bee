# SPDX-License-Identifier: Apache-2.0
"""`Run`: one run of one program: what its state and all forks of it share.

That is the backend, one lock with one condition, the threads, and the end: a run ends when its body has
returned and everything that was appended, to forks too, is done; or all at once, when it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Protocol

from sgl_lang.backends.protocol import Backend, Prompt
from sgl_lang.chat import ChatTemplate
from sgl_lang.errors import ProgramError
from sgl_lang.sampling import SamplingParams
from sgl_lang.usage import Usage
from sgl_lang.workers import Workers

# A signal that arrives just before a thread begins to wait does not wake it, and on Windows none does.
_SIGNAL_S = 1.0
_CANCEL_S = 1.0  # for what is under way to be given up


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, from the place where it arose."""

    error: Exception
    traceback: TracebackType | None

    @staticmethod
    def of(error: BaseException) -> Failure:
        """Ctrl-C and exit are for whoever runs the program now, not for those who read its state later."""
        if isinstance(error, Exception):
            return Failure(error, error.__traceback__)
        interrupted = ProgramError(f"the program was interrupted by {type(error).__name__}")
        return Failure(interrupted, None)

    def throw(self) -> NoReturn:
        """Raise the error as if for the first time, however often it was raised before."""
        raise self.error.with_traceback(self.traceback)


class Ended(Exception):
    """Nobody wants to know any more. Never leaves the package."""


class Work(Protocol):
    """An executor, as its run sees it. Its verbs are called under `Run.changed`."""

    def give_up(self, failure: Failure) -> None:
        """Do nothing more: what is not done yet has failed."""
        ...

    def flush(self) -> None:
        """Put nothing off any longer."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How a program is run.

    Attributes:
        defaults: sampling parameters of every generation that does not say otherwise.
        stream: text becomes known while it is generated.
        speculate: tokens to generate ahead of what was asked for; None: none.
        before: called with the first prompt of the run, before it is sent.
    """

    backend: Backend
    defaults: SamplingParams
    name: str
    stream: bool = False
    speculate: int | None = None
    before: Callable[[Prompt], None] | None = None


class Run:
    """Shared by an executor and its forks. Whatever changes in any of them changes under `changed`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.backend = settings.backend
        self.capabilities = settings.backend.capabilities
        self.changed = threading.Condition()
        self.workers = Workers(settings.name)
        self.ended = False  # nothing will change any more
        self.returned: Future[Any] = Future()  # the body's return value
        self.root: Work | None = None
        self.busy: dict[Work, None] = {}  # those with something to do
        self.template: ChatTemplate | None = None  # once somebody has needed it
        self.usage = Usage()
        self._ready: deque[Callable[[], None]] = deque()  # tasks that no worker has yet
        self._before = settings.before
        self._under_way: set[str] = set()  # rids of requests that workers wait for
        self._listeners: list[Callable[[], None]] = []
        self._driver: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None

    # -- from beginning to end

    def drive(self, body: Callable[[], Any]) -> None:
        """Run a program's body to its end, and all that it appended. What the body raises is raised."""
        if self.ended:  # cancelled before it began
            return
        try:
            result = body()
            self._flush()
            # Not in close(): CPython 3.11 takes a thread for dead when a signal interrupts the join.
            self._wait(lambda: self._finishes(result))
            self.workers.close()
        except BaseException as error:
            self.cancel(error)
            raise

    async def drive_async(self, body: Callable[[], Awaitable[Any]]) -> None:
        """`drive` for a coroutine: waiting leaves the event loop free."""
        try:
            result = await body()
            self._flush()
            await self.wait_async(lambda: self._finishes(result))
            self.workers.close()
        except BaseException as error:
            await asyncio.to_thread(self.cancel, error)
            raise

    def start(self, body: Callable[[], Any]) -> None:
        """Run a program's body in a thread. What the body raises becomes the root's failure."""

        def drive() -> None:
            with suppress(BaseException):  # kept by cancel(), raised where the state is read
                self.drive(body)

        context = contextvars.copy_context()
        name = f"sgl {self.settings.name}"
        self._driver = threading.Thread(target=context.run, args=(drive,), name=name, daemon=True)
        self._driver.start()

    def cancel(self, error: BaseException) -> None:
        """Give up everything that is not done yet. Returns when the workers have ended, or after a second."""
        rids: tuple[str, ...] = ()
        with self.changed:
            if not self.ended:
                failure = Failure.of(error)
                for work in {*self.busy, *(() if self.root is None else (self.root,))}:
                    work.give_up(failure)
                self.busy.clear()
                if not self.returned.done():
                    self.returned.set_exception(failure.error)
                rids = tuple(self._under_way)
                self._end()
        aborting = Workers(f"{self.settings.name} abort")
        for rid in rids:
            aborting.submit(partial(self.backend.abort, rid))
        aborting.close(_CANCEL_S)
        self.workers.close(_CANCEL_S)

    def keep(self, task: asyncio.Task[None]) -> None:
        """An event loop holds its tasks weakly; the run holds the one that drives it."""
        self._task = task

    def join(self) -> None:
        """Wait for the threads of a run that has ended."""
        if self._driver is not None and self._driver is not threading.current_thread():
            self._driver.join()

    def _flush(self) -> None:
        with self.changed:
            for work in tuple(self.busy):
                work.flush()
        self.dispatch()

    def _finishes(self, result: Any) -> bool:
        """End the run if nothing is left to do; whether it has ended."""
        with self.changed:
            if not self.ended and not self.busy:
                self.returned.set_result(result)
                self._end()
            return self.ended

    def _end(self) -> None:
        self.ended = True
        self.notify()

    def put(self, task: Callable[[], None]) -> None:
        """A task for a worker. Under `changed`; who holds it calls `dispatch` afterwards."""
        self._ready.append(task)

    def dispatch(self) -> None:
        """Give the tasks to workers: not under `changed`, for which a worker that wakes up would wait."""
        while self._ready:
            with suppress(IndexError):  # another thread was faster
                self.workers.submit(self._ready.popleft())

    # -- waiting

    @property
    def idle(self) -> bool:
        """Everything that was appended to any state is done."""
        return self.ended or not self.busy

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`, evaluated after every change, holds. Ctrl-C in here cancels the program."""
        try:
            self._wait(condition)
        except KeyboardInterrupt as error:
            self.cancel(error)
            raise

    async def wait_async(self, condition: Callable[[], bool]) -> None:
        """`wait_for` for coroutines: occupies no thread."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            # RuntimeError: the loop was closed over an unfinished wait, so nobody is waiting.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)

        with self._listening(wake):
            while not condition():
                await changed.wait()
                changed.clear()

    def notify(self) -> None:
        """Something has changed. Only under `changed`."""
        self.changed.notify_all()
        for listener in self._listeners:
            listener()

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            while not self.changed.wait_for(condition, _SIGNAL_S):
                pass

    @contextmanager
    def _listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` after every change, in whatever thread makes it; it must not block."""
        with self.changed:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self.changed:
                self._listeners.remove(listener)

    # -- talking to the backend

    def markup(self) -> ChatTemplate:
        """The backend's chat template; the first time this may ask the other side."""
        if self.template is None:
            self.template = self.backend.chat_template
        return self.template

    def count(self, meta_info: Mapping[str, Any]) -> None:
        """One more answer was given."""
        with self.changed:
            self.usage = self.usage.plus(meta_info)

    @contextmanager
    def requesting(self, prompt: Prompt) -> Iterator[None]:
        """While a request for `prompt` is under way, `cancel` gives it up. Raises Ended after the end."""
        if self._before is not None:
            self._first(prompt)
        with self.changed:
            if self.ended:
                raise Ended
            self._under_way.add(prompt.rid)
        try:
            yield
        finally:
            self._under_way.discard(prompt.rid)  # atomic, and `cancel` looks at a copy

    def _first(self, prompt: Prompt) -> None:
        with self.changed:
            before, self._before = self._before, None
        if before is not None:
            before(prompt)
