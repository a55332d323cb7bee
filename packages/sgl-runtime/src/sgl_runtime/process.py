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
from contextlib import contextmanager
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
_ORPHAN_S = 5.0  # how long a child may take to end after its launcher was killed


class Program(msgspec.Struct, frozen=True):
    """What a child runs: `entry(pipe, **kwargs)`, where `pipe` is a ChildPipe."""

    name: str
    entry: str  # "package.module:function"
    kwargs: Mapping[str, Any]
    log_level: str = "info"
    http_log_level: str | None = None


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
        except BrokenPipeError:
            _logger.error("the launcher is gone; nobody to tell: %s", message)


class Terminated(BaseException):
    """SIGTERM arrived. Raised in the main thread, so that what was going on shows in the traceback."""


class Child:
    """A started process."""

    def __init__(self, program: Program) -> None:
        self.name = program.name
        self.pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_child, args=(program, theirs), name=program.name)
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
        except (BrokenPipeError, ConnectionResetError):
            _logger.debug("%s no longer reads its pipe", self.name)

    def wait_ready(self, others: Sequence[Child]) -> Ready:
        """Block until this child is ready. Raises ConfigError or EngineDied as soon as any child fails."""
        while True:
            family = (self, *(child for child in others if child is not self))
            happened = wait([self.pipe, *(child.sentinel for child in family)])
            if self.pipe in happened and (message := self._read()) is not None:
                if isinstance(message, Failed):
                    raise _failure(self.name, message)
                return message
            for child in family:
                if child.sentinel in happened:
                    raise child.cause_of_death()

    def cause_of_death(self) -> ConfigError | EngineDied:
        """Why a child that has ended did so: what it said itself, else its exit code."""
        self._process.join()
        while self.pipe.poll() and (message := self._read()) is not None:
            if isinstance(message, Failed):
                return _failure(self.name, message)
        code = self._process.exitcode
        if code is not None and code < 0:
            return EngineDied(f"{self.name} was killed by {signal.Signals(-code).name}")
        return EngineDied(f"{self.name} exited with {code}")

    def terminate(self) -> None:
        self._process.terminate()

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
            return None
        return message


def supervise(children: Sequence[Child]) -> EngineDied | ConfigError:
    """Block until the first child ends; return why. Terminated and KeyboardInterrupt pass through."""
    happened = wait([child.sentinel for child in children])
    return next(child for child in children if child.sentinel in happened).cause_of_death()


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
    return EngineDied(f"{name} died:\n{failed.traceback.rstrip()}")


def _child(program: Program, connection: Connection) -> None:
    """The main function of every child."""
    log.configure(program.name, program.log_level, http_level=program.http_log_level)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the launcher decides
    threading.Thread(target=_end_with_parent, daemon=True, name="parent-watch").start()
    pipe = ChildPipe(connection)
    try:
        with termination_as_exception():
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
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)  # wakes it from whatever it waits for
    time.sleep(_ORPHAN_S)
    signal.raise_signal(signal.SIGKILL)
