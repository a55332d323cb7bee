# SPDX-License-Identifier: Apache-2.0
"""`Executor`: carries out what is appended to one state, in order, one thing at a time, in a worker thread.

A variable is a value or an error in one object. The first failure ends the work of this state, and
variables after it fail with the same error: a reader gets a value or learns why there is none. What has been
said is a `Transcript`, replaced as a whole. A fork is another executor, which begins when its parent has come
to the place where it was made; nobody waits for that. The file does not know how programs are written nor how
readers wait.

    body ──submit──► steps ──► worker ──► transcript, variables ──► readers
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from sgl_lang.asking import resolve
from sgl_lang.errors import ProgramError
from sgl_lang.ir import (
    Expr,
    Gen,
    Part,
    Role,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    Select,
    Show,
    Text,
    role_after,
)
from sgl_lang.line import Line, line_of_user
from sgl_lang.run import Ended, Failure, Run
from sgl_lang.speaker import Speaker
from sgl_lang.transcript import Transcript
from sgl_lang.variable import Variable


@dataclass(frozen=True, slots=True)
class _Fork:
    """From here on, these go their own ways."""

    children: tuple[Executor, ...]


@dataclass(frozen=True, slots=True)
class _Flush:
    """Somebody waits: put nothing off."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One part to carry out, where it was appended and among which context variables, and what it fills."""

    part: Part | _Fork | _Flush
    line: Line
    variable: Variable | None = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context)


_Named: TypeAlias = Gen | Select | ScopeEnd


class Executor:
    """One state of a run.

    `transcript` and `failure` may be read at any time; everything else that changes is guarded by the run's
    lock. `origin` is the transcript with which a fork began.
    """

    def __init__(self, run: Run, *, variables: Mapping[str, Variable] | None = None) -> None:
        self.run = run
        self.transcript = Transcript()
        self.origin = self.transcript
        self.failure: Failure | None = None  # the first one
        self.role: Role | None = None  # of the turn that is open after everything submitted
        self._variables = dict(variables or {})  # the newest under each name
        self._inherited = dict(self._variables)
        self._steps: deque[_Step] = deque()
        self._deferred: list[_Step] = []  # parts of a turn that is asked for as a whole
        self._scopes: list[int] = []  # where the open ones begin in the text, the outermost first
        self._current: _Step | None = None
        self._released = True  # a fork waits until its parent has come to where it was made
        self._working = False  # a worker is at it
        self._speaker = Speaker(run)

    # -- what the body does

    def submit(self, expr: Expr) -> None:
        """Append an expression; returns at once.

        Raises ProgramError when turns are nested or closed in the wrong order, or the program has ended, and
        UnsupportedByBackend for what the backend cannot do; then nothing of the expression is appended.
        """
        line = line_of_user()
        settings = self.run.settings
        parts = [
            resolve(part, settings.defaults, self.run.backend, self.run.capabilities) for part in expr.parts
        ]
        with self.run.changed:
            self._check_open()
            self.role = role_after(self.role, expr)
            for part in parts:
                variable = Variable() if isinstance(part, _Named) else None
                if variable is not None and part.name is not None:  # type: ignore[union-attr]
                    self._variables[part.name] = variable  # type: ignore[union-attr]
                step = _Step(part, line, variable)
                if self._is_instant(part):
                    self._attempt(step, partial(self._execute, step), ProgramError)
                    self._settle([step])
                    self.run.notify()
                else:
                    self._enqueue(step)
        self.run.dispatch()

    def fork(self, number: int) -> tuple[Executor, ...]:
        """`number` executors that begin with what was appended so far."""
        line = line_of_user()
        with self.run.changed:
            self._check_open()
            children = tuple(Executor(self.run, variables=self._variables) for _ in range(number))
            for child in children:
                child.role = self.role
                child._released = False
            self._enqueue(_Step(_Fork(children), line))
        self.run.dispatch()
        return children

    def set(self, name: str, value: Any) -> None:
        """Give a variable a value of the program's own."""
        variable = Variable()
        variable.fill(value, str(value), {})
        self.put(name, variable)

    def put(self, name: str, variable: Variable) -> None:
        """Let a variable have this name."""
        with self.run.changed:
            self._variables[name] = variable
            self.run.notify()

    def flush(self) -> None:
        """Somebody is about to wait: put nothing off. Called under the run's lock."""
        if self.run.settings.speculate is not None and not self.run.ended:
            self._enqueue(_Step(_Flush(), line_of_user()))

    # -- what readers do

    def find(self, name: str) -> Variable | None:
        """The newest variable of this name, if the program has asked for one yet."""
        return self._variables.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        with self.run.changed:
            return tuple(self._variables)

    @property
    def own(self) -> dict[str, Variable]:
        """The variables that are not those of the parent at the fork."""
        with self.run.changed:
            items = self._variables.items()
            return {name: variable for name, variable in items if self._inherited.get(name) is not variable}

    def returned(self) -> Any:
        """What the body returned, of a run that has ended. Raises what it raised."""
        if self.run.returned.exception() is not None:
            assert self.failure is not None, "what a body raises is its state's failure"
            self.failure.throw()
        return self.run.returned.result()

    @property
    def idle(self) -> bool:
        """Everything that was submitted is done."""
        return self.run.ended or (self._released and self not in self.run.busy)

    # -- the worker

    def _work(self) -> None:
        """Carry out what there is, then let the thread go."""
        done: list[_Step] = []
        while (step := self._next(done)) is not None:
            if self._puts_off(step):
                self._deferred.append(step)
                done = []
                continue
            done = [*self._deferred, step]
            if self._deferred:
                asking = next((put_off for put_off in self._deferred if put_off.variable), step)
                self._attempt(asking, partial(asking.context.run, self._speak_turn))
                self._deferred = []
            self._attempt(step, partial(step.context.run, self._execute, step))

    def _next(self, done: list[_Step]) -> _Step | None:
        """After these are done, the next one; None if there is none, and this worker may go."""
        step = None
        with self.run.changed:
            self._settle(done)
            if self._steps:
                step = self._current = self._steps.popleft()
            else:
                self._working = False
                if not self._deferred:
                    self.run.busy.pop(self, None)
            if done or step is None:
                self.run.notify()
        self.run.dispatch()
        return step

    def _puts_off(self, step: _Step) -> bool:
        if self.failure is not None or not isinstance(step.part, Text | Gen):
            return False
        return self._speaker.speaks_whole_turns(self.transcript, step.part)

    def _attempt(
        self, step: _Step, action: Callable[[], None], kind: type[BaseException] = BaseException
    ) -> None:
        """Do it; what it raises, if it is of this kind, belongs to whoever reads. In the body's own thread
        that must not be Ctrl-C.
        """
        if self.failure is not None:
            return
        try:
            action()
        except Ended:
            pass  # whoever ended it has said why
        except kind as error:
            what = "an appended expression" if step.variable is None else "a generation"
            error.add_note(f"{what} of the program {self.run.settings.name!r} failed:\n{step.line}")
            with self.run.changed:
                if self.failure is None:
                    self.failure = Failure.of(error)

    def _execute(self, step: _Step) -> None:
        before = transcript = self.transcript
        match step.part:
            case Text(text):
                transcript = self._speaker.hears(before.add(text), text)
            case Show(media):
                transcript = before.show(media, self.run.markup())
            case RoleBegin(role):
                transcript = self._speaker.hears(before.begin(role, self.run.markup()))
            case RoleEnd():
                transcript = self._speaker.hears(before.end(self.run.markup()))
            case ScopeBegin():
                self._scopes.append(len(before.text))
            case ScopeEnd():
                assert step.variable is not None
                self._fill(step.variable, before, before.text[self._scopes.pop() :])
            case _Fork(children):
                self._speaker.warm(before, len(children))
            case Gen() as part:
                self._generate(part, step.variable)
            case Select() as part:
                self._select(part, step.variable)
        if transcript is not before:
            with self.run.changed:
                if self.failure is None:
                    self.transcript = transcript

    def _generate(self, part: Gen, variable: Variable | None) -> None:
        assert variable is not None
        before = self.transcript
        for completion in self._speaker.speak(before, part):
            if self.run.settings.stream:
                self._progress(variable, before.add(completion.text), completion.text, completion.meta_info)
        others = completion.others
        value = completion.text if not others else [completion.text, *(other.text for other in others)]
        told = completion.meta_info if not others else [c.meta_info for c in (completion, *others)]
        self._fill(variable, before.add(completion.text), value, told)

    def _select(self, part: Select, variable: Variable | None) -> None:
        assert variable is not None
        before = self.transcript
        choice, meta_info = self._speaker.choose(before, part)
        self._fill(variable, before.add(choice), choice, meta_info)

    def _speak_turn(self) -> None:
        """Ask for a turn as a whole, and divide it among its parts."""
        parts = [step.part for step in self._deferred if isinstance(step.part, Text | Gen)]
        texts, meta_info = self._speaker.speak_turn(self.transcript, parts)
        for step, text in zip(self._deferred, texts, strict=True):
            transcript = self.transcript.add(text)
            if step.variable is None:
                with self.run.changed:
                    self.transcript = transcript
            else:
                self._fill(step.variable, transcript, text, meta_info)

    def _progress(self, variable: Variable, transcript: Transcript, text: str, meta_info: Any) -> None:
        """Make known what is said so far. Raises Ended when nobody wants it any more."""
        with self.run.changed:
            if self.failure is not None:
                raise Ended
            variable.text = text
            variable.meta_info = meta_info
            self.transcript = transcript
            self.run.notify()

    def _fill(self, variable: Variable, transcript: Transcript, value: Any, meta_info: Any = None) -> None:
        with self.run.changed:
            if self.failure is not None:
                raise Ended
            self.transcript = transcript
            text = value if isinstance(value, str) else value[0]
            variable.fill(value, text, {} if meta_info is None else meta_info)

    # -- under the lock

    def _settle(self, steps: list[_Step]) -> None:
        """These are done, or failed."""
        for step in steps:
            if step.variable is not None and not step.variable.done:
                assert self.failure is not None
                step.variable.fail(self.failure)
            if isinstance(step.part, _Fork):
                for child in step.part.children:
                    child._begin(self)

    def give_up(self, failure: Failure) -> None:
        """Do nothing more: what is not done yet has failed."""
        if self.failure is None or self.failure.error is failure.error:
            self.failure = failure  # of the same error the newer one: it shows where the body read it
        under_way = () if self._current is None else (self._current,)
        for step in (*under_way, *self._deferred, *self._steps):
            if step.variable is not None and not step.variable.done:
                step.variable.fail(self.failure)

    def _begin(self, parent: Executor) -> None:
        """The parent has come to where this fork was made."""
        self.transcript = self.origin = parent.transcript
        self.failure = self.failure or parent.failure
        self._speaker = parent._speaker.forked()
        self._released = True
        self._start()

    def _enqueue(self, step: _Step) -> None:
        self._steps.append(step)
        self.run.busy[self] = None
        self._start()

    def _is_instant(self, part: Part) -> bool:
        """Whether this needs neither a worker nor a look at the backend, and is next."""
        quick = isinstance(part, Text | ScopeBegin | ScopeEnd)
        if not quick and not (isinstance(part, RoleBegin | RoleEnd) and self.run.template is not None):
            return False
        busy = self._working or self._steps or not self._released
        return not busy and self.run.settings.speculate is None

    def _start(self) -> None:
        if self._steps and self._released and not self._working and not self.run.ended:
            self._working = True
            self.run.put(self._work)

    def _check_open(self) -> None:
        if self.run.ended:
            raise ProgramError("this program has ended; its state can be read, but nothing appended")
