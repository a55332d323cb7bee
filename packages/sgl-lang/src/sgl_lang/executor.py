# SPDX-License-Identifier: Apache-2.0
"""`Executor`: carries out what a program appends, in order, in one worker thread of its own.

Every variable is a `Future`: value or error in one object. The first failure ends the work, and variables
after it fail with the same error: a reader gets a value or learns why there is none. What has been said is a
`Transcript`, replaced as a whole. The file does not know how programs are written nor how readers wait.

    body ──submit──► steps ──► worker ──► transcript, variables ──► readers
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NoReturn

from sgl_lang.backends.protocol import Backend, Completion, Prompt
from sgl_lang.errors import ProgramError
from sgl_lang.ir import Expr, Gen, Part, Role, RoleBegin, RoleEnd, Text, role_after
from sgl_lang.line import Line, line_of_user
from sgl_lang.sampling import SamplingParams, merge
from sgl_lang.transcript import Transcript

# A signal that arrives just before a thread begins to wait does not wake it, and on Windows none does.
_SIGNAL_S = 1.0


class Variable:
    """A value that may still be on its way. Changed only under the executor's lock."""

    __slots__ = ("future", "meta_info", "text")

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.text = ""  # so far
        self.meta_info: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class _Step:
    """One part to carry out, where it was appended, and the variable it fills."""

    part: Part
    line: Line
    variable: Variable | None


class Executor:
    """One run of one program.

    `transcript` and `error` may be read at any time; everything else that changes is guarded by `_changed`.
    """

    def __init__(self, backend: Backend, defaults: SamplingParams, *, stream: bool, name: str) -> None:
        self.transcript = Transcript()
        self.error: Exception | None = None  # the first failure
        self.ended = False  # nothing will change any more
        self.returned: Future[Any] = Future()  # the body's return value
        self._backend = backend
        self._defaults = defaults
        self._stream = stream
        self._name = name
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._steps: SimpleQueue[_Step | None] = SimpleQueue()
        self._submitted = 0
        self._executed = 0
        self._role: Role | None = None  # of the turn that is open after everything submitted
        self._variables: dict[str, Variable] = {}  # the newest under each name
        self._pending: deque[Variable] = deque()  # without value or error; the oldest first
        self._under_way: str | None = None  # rid of the request the worker waits for
        self._traceback: TracebackType | None = None  # of `error`, from the place where it arose
        self._worker: threading.Thread | None = None
        self._driver: threading.Thread | None = None

    # -- running a program

    def run(self, body: Callable[[], Any]) -> None:
        """Run a program's body to its end, and all that it appended. What the body raises is raised."""
        try:
            result = body()
            # Not in join(): CPython 3.11 takes a thread for dead when a signal interrupts the join.
            self._wait(lambda: self.idle)
            self._steps.put(None)
            if self._worker is not None:
                self._worker.join()
        except BaseException as error:
            self.cancel(error)
            raise
        with self._changed:
            if not self.ended:  # a reader's Ctrl-C may have ended it meanwhile
                self.returned.set_result(result)
                self._end()

    def start(self, body: Callable[[], Any]) -> None:
        """Run a program's body in a thread. What the body raises becomes `error`."""

        def drive() -> None:
            with suppress(BaseException):  # kept by cancel(), raised where the state is read
                self.run(body)

        self._driver = self._thread(drive)

    def cancel(self, error: BaseException) -> None:
        """Give up everything that is not done yet. Returns when the worker has ended, or after a second."""
        under_way = None
        with self._changed:
            if not self.ended:
                self._record(error)
                for variable in self._pending:
                    self._fail(variable.future)
                self._pending.clear()
                if not self.returned.done():
                    self._fail(self.returned)
                under_way = self._under_way
                self._end()
        if under_way is not None:
            self._backend.abort(under_way)
        self._steps.put(None)
        if self._worker is not None:
            self._worker.join(timeout=1.0)

    def join(self) -> None:
        """Wait for the threads of a run that has ended."""
        if self._driver is not None and self._driver is not threading.current_thread():
            self._driver.join()

    # -- what the body does

    def submit(self, expr: Expr) -> None:
        """Append an expression; returns at once.

        Raises ProgramError when turns are nested or closed in the wrong order, or the program has ended.
        """
        line = line_of_user()
        with self._changed:
            if self.ended:
                raise ProgramError("this program has ended; its state can be read, but nothing appended")
            self._role = role_after(self._role, expr)
            for part in expr.parts:
                variable = None
                if isinstance(part, Gen):
                    variable = Variable()
                    self._pending.append(variable)
                    if part.name is not None:
                        self._variables[part.name] = variable
                self._submitted += 1
                self._steps.put(_Step(part, line, variable))
            if self._worker is None:
                self._worker = self._thread(self._work)

    def set(self, name: str, value: Any) -> None:
        """Give a variable a value of the program's own."""
        variable = Variable()
        variable.text = str(value)
        variable.future.set_result(value)
        with self._changed:
            self._variables[name] = variable
            self._notify()

    # -- what readers do

    def find(self, name: str) -> Variable | None:
        """The newest variable of this name, if the program has asked for one yet."""
        return self._variables.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        with self._changed:
            return tuple(self._variables)

    @property
    def idle(self) -> bool:
        """Everything that was submitted is done."""
        return self.ended or self._executed == self._submitted

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition`, evaluated after every change, holds. Ctrl-C in here cancels the program."""
        try:
            self._wait(condition)
        except KeyboardInterrupt as error:
            self.cancel(error)
            raise

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call `listener` after every change, in whatever thread makes it; it must not block."""
        with self._changed:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._changed:
                self._listeners.remove(listener)

    def raise_error(self) -> NoReturn:
        """Raise the first failure, from the place where it arose, however often it was raised before."""
        assert self.error is not None
        raise self.error.with_traceback(self._traceback)

    # -- the worker

    def _work(self) -> None:
        while (step := self._steps.get()) is not None:
            try:
                if self.error is None:
                    self._execute(step)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to the variable's reader
                what = "an appended expression" if step.variable is None else "a generation"
                error.add_note(f"{what} of the program {self._name!r} failed:\n{step.line}")
                with self._changed:
                    self._record(error)
            with self._changed:
                self._executed += 1
                if step.variable is not None and not step.variable.future.done():
                    self._pending.remove(step.variable)
                    self._fail(step.variable.future)
                self._notify()

    def _execute(self, step: _Step) -> None:
        transcript = self.transcript
        match step.part:
            case Text(text):
                transcript = transcript.add(text)
            case RoleBegin(role):
                transcript = transcript.begin(role, self._backend.chat_template)
            case RoleEnd():
                transcript = transcript.end(self._backend.chat_template)
            case Gen() as part:
                assert step.variable is not None
                self._generate(part, step.variable)
                return
        with self._changed:
            if self.error is None:
                self.transcript = transcript

    def _generate(self, part: Gen, variable: Variable) -> None:
        before = self.transcript
        params = merge(self._defaults, part.params)
        if before.role == "assistant":
            stop = (*(params.stop or ()), *self._backend.chat_template.stop)
            params = merge(params, SamplingParams(stop=stop))
        prompt = Prompt(os.urandom(16).hex(), before.text, before.messages, before.media, part.name)
        completion = Completion("")
        with self._changed:
            if self.error is not None:
                return
            self._under_way = prompt.rid
        try:
            if self._stream:
                with closing(self._backend.stream(prompt, params)) as completions:
                    for completion in completions:
                        if not self._progress(before, variable, completion):
                            return
            else:
                completion = self._backend.generate(prompt, params)
        finally:
            self._under_way = None
        with self._changed:
            if self._progress(before, variable, completion):
                self._pending.remove(variable)
                variable.future.set_result(completion.text)

    def _progress(self, before: Transcript, variable: Variable, completion: Completion) -> bool:
        """Make known what is generated so far. False when nobody wants it any more."""
        with self._changed:
            if self.error is not None:
                return False
            variable.text = completion.text
            variable.meta_info = completion.meta_info
            self.transcript = before.add(completion.text)
            self._notify()
            return True

    def _wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            while not self._changed.wait_for(condition, _SIGNAL_S):
                pass

    # -- under the lock

    def _record(self, error: BaseException) -> None:
        if self.error is None:
            # Ctrl-C and exit are for whoever runs the program now, not for those who read its state later.
            interrupted = ProgramError(f"the program was interrupted by {type(error).__name__}")
            self.error = error if isinstance(error, Exception) else interrupted
        if self.error is error:
            self._traceback = error.__traceback__

    def _fail(self, future: Future[Any]) -> None:
        assert self.error is not None
        future.set_exception(self.error)

    def _end(self) -> None:
        self.ended = True
        self._notify()

    def _notify(self) -> None:
        self._changed.notify_all()
        for listener in self._listeners:
            listener()

    # -- threads

    def _thread(self, target: Callable[[], None]) -> threading.Thread:
        """A started thread with the caller's context variables, which does not keep the process alive."""
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(target,), name=f"sgl {self._name}", daemon=True)
        thread.start()
        return thread
