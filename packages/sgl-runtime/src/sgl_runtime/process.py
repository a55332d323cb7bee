# SPDX-License-Identifier: Apache-2.0
"""Child processes as data, and one rule: the first death stops the rest.

A child is a name and an entry point `"module:function"`, imported in the child alone, so that the launcher
never pays for torch. Each child holds one pipe to the launcher: it says `Ready` once, or `Failed` with its
traceback. Knows nothing of what the children do.
"""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

import msgspec

from sgl_runtime import log
from sgl_runtime.errors import ConfigError, EngineDied
from sgl_runtime.messages import Failed, FromChild, Message, Ready, decoder, encode

_logger = log.logger(__name__)
_SPAWN = multiprocessing.get_context("spawn")
_FROM_CHILD = decoder(FromChild)
_LAST_WORDS_S = 1.0  # from the first end of a child to the last explanation that is waited for
_ORPHAN_S = 5.0  # how long a child may take to end after its launcher was killed


class Program(msgspec.Struct, frozen=True):
    """What a child runs: `entry(pipe, **kwargs)`, where `pipe` is a ChildPipe."""

    name: str
    entry: str  # "package.module:function"
    kwargs: Mapping[str, Any]
    log_level: str = "info"
    http_log_level: str | None = None
    # Whether SIGTERM asks it to finish what it has begun. One that does not drain ignores SIGTERM, which may
    # come to the whole process group, because those that drain need it until they have ended; the launcher
    # kills it last.
    drains: bool = True


class ChildPipe:
    """The child's end of its pipe to the launcher."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def ready(self, ready: Ready) -> None:
        self._send(ready)

    def failed(self, failed: Failed) -> None:
        self._send(failed)

    def receive(self) -> bytes:
        """The next message of the launcher; raises EOFError when the launcher is gone."""
        return self.connection.recv_bytes()

    def _send(self, message: Message) -> None:
        try:
            self.connection.send_bytes(encode(message))
        except OSError:
            _logger.error("the launcher is gone; nobody to tell: %s", message)


class Terminated(BaseException):
    """SIGTERM arrived. Raised in the main thread, so that what was going on shows in the traceback."""


class Child:
    """A started process."""

    def __init__(self, program: Program) -> None:
        self.name = program.name
        self.pipe, theirs = _SPAWN.Pipe()
        self._drains = program.drains
        # A daemon: should the launcher end without stopping it, it is not waited for.
        self._process = _SPAWN.Process(target=_child, args=(program, theirs), name=program.name, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def send(self, data: bytes) -> None:
        """A message to the child; a child that is gone is noticed by its sentinel, not here."""
        try:
            self.pipe.send_bytes(data)
        except OSError:
            _logger.debug("%s no longer reads its pipe", self.name)

    def wait_ready(self, others: Sequence[Child]) -> Ready:
        """Block until this child is ready. Raises ConfigError or EngineDied as soon as any child fails."""
        while True:
            family = (self, *(child for child in others if child is not self))
            happened = wait({*self.signs(), *(child.sentinel for child in family)})
            if self.pipe in happened and (message := self._read()) is not None:
                if isinstance(message, Failed):
                    raise _failure(self.name, message)
                return message
            if any(child.sentinel in happened for child in family):
                raise first_cause(family)

    def signs(self) -> list[Connection | int]:
        """What to wait on for news of it: its pipe, until that has ended, and its sentinel."""
        return [self.sentinel] if self.pipe.closed else [self.pipe, self.sentinel]

    @property
    def was_killed(self) -> bool:
        """It has ended, by a signal."""
        return self._process.exitcode is not None and self._process.exitcode < 0

    @property
    def succeeded(self) -> bool:
        """Of one that is ending: whether that is because it has done what it had to do."""
        self._process.join()
        return self._process.exitcode == 0

    def last_words(self) -> ConfigError | EngineDied | None:
        """What the child has said of its own failure, if it has said anything."""
        while not self.pipe.closed and self.pipe.poll() and (message := self._read()) is not None:
            if isinstance(message, Failed):
                return _failure(self.name, message)
        return None

    def cause_of_death(self) -> ConfigError | EngineDied:
        """Why a child that has ended did so: what it said itself, else its exit code."""
        self._process.join()
        if (cause := self.last_words()) is not None:
            return cause
        code = self._process.exitcode
        if code is not None and code < 0:
            return EngineDied(f"{self.name} was killed by {signal.Signals(-code).name}")
        return EngineDied(f"{self.name} exited with {code}")

    def terminate(self) -> None:
        """Ask it to end, or end it, if it has nothing to finish."""
        if self._drains:
            self._process.terminate()
        else:
            self._process.kill()

    def finish(self, deadline: float) -> None:
        """Wait until `deadline` (time.monotonic), then kill."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            _logger.warning("%s did not end in time; killing it", self.name)
            self._process.kill()
            self._process.join()
        self.pipe.close()

    def _read(self) -> Ready | Failed | None:
        try:
            message: Ready | Failed = _FROM_CHILD.decode(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            self.pipe.close()  # an end of file would be news for ever
            return None
        return message


def supervise(children: Sequence[Child]) -> EngineDied | ConfigError:
    """Block until the first child ends; return why. Terminated and KeyboardInterrupt pass through."""
    wait([child.sentinel for child in children])
    return first_cause(children)


def drain(
    children: Sequence[Child], others: Sequence[Child], *, seconds: float
) -> EngineDied | ConfigError | None:
    """Ask `children` to end; wait for all, at most `seconds`. Why, if one of the others ends before them."""
    deadline = time.monotonic() + seconds
    for child in children:
        child.terminate()
    left = {child.sentinel for child in children}
    while left and (seconds := deadline - time.monotonic()) > 0:
        happened = wait([*left, *(other.sentinel for other in others)], timeout=seconds)
        left.difference_update(sentinel for sentinel in happened if isinstance(sentinel, int))
        if any(other.sentinel in happened for other in others) and left:
            return first_cause(others)
    return None


def first_cause(children: Sequence[Child]) -> EngineDied | ConfigError:
    """Why the family is dying. One child has ended; another may have caused it and still be telling why.

    Ranks that lose a partner fail within moments, and a rank that raises takes a while to end: a child's own
    words count more than an exit code, and the words that came first more than later ones.
    """
    deadline = time.monotonic() + _LAST_WORDS_S
    silent: EngineDied | ConfigError | None = None
    ended: set[str] = set()
    while (left := deadline - time.monotonic()) > 0 and len(ended) < len(children):
        open_ones = [child for child in children if child.name not in ended]
        happened = wait([sign for child in open_ones for sign in child.signs()], timeout=left)
        for child in open_ones:
            if child.pipe in happened or child.sentinel in happened:
                cause = child.last_words()
                if cause is not None:
                    return cause
                if child.sentinel in happened:
                    ended.add(child.name)
                    silent = silent or child.cause_of_death()
                    if child.was_killed:
                        return silent  # by somebody else: nobody has words about that
    assert silent is not None, "some child has ended"
    return silent


def stop(children: Sequence[Child], *, seconds: float) -> None:
    """End all children: SIGTERM, then after `seconds` SIGKILL."""
    deadline = time.monotonic() + seconds
    for child in children:
        child.terminate()
    for child in children:
        child.finish(deadline)


@contextmanager
def termination_as_exception() -> Iterator[None]:
    """Within it SIGTERM raises Terminated in the main thread."""
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within it SIGTERM and Ctrl-C are ignored: for clean-ups that take a bounded time."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated(f"{signal.Signals(number).name} received")


def _failure(name: str, failed: Failed) -> ConfigError | EngineDied:
    if failed.message:
        return ConfigError(failed.message)
    story = failed.traceback.rstrip()
    return EngineDied(f"{name} died: {story.splitlines()[-1]}\n{story}")


def _child(program: Program, connection: Connection) -> None:
    """The main function of every child."""
    log.configure(program.name, program.log_level, http_level=program.http_log_level)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the launcher decides
    threading.Thread(target=_end_with_parent, daemon=True, name="parent-watch").start()
    pipe = ChildPipe(connection)
    if not program.drains:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with termination_as_exception() if program.drains else nullcontext():
            module, _, function = program.entry.partition(":")
            getattr(importlib.import_module(module), function)(pipe, **program.kwargs)
    except ConfigError as error:
        pipe.failed(Failed(traceback.format_exc(), error.message))
        raise SystemExit(2) from None
    except BaseException as error:
        pipe.failed(Failed(traceback.format_exc()))
        raise SystemExit(1) from error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a child is started by the launcher"
    wait([parent.sentinel])
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.raise_signal(signal.SIGKILL)
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)  # wakes it from whatever it waits for
    time.sleep(_ORPHAN_S)
    signal.raise_signal(signal.SIGKILL)
