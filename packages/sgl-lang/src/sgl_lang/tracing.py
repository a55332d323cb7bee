# SPDX-License-Identifier: Apache-2.0
"""`trace`: finds what a program does by running its body once, without a model, on a state that takes notes.

What it finds is a `traced.Trace`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sgl_lang.errors import ProgramError
from sgl_lang.forks import Forks
from sgl_lang.ir import Expr, Gen, Part, Role, ScopeBegin, ScopeEnd, Select, Text, Unknown, role_after
from sgl_lang.state import State
from sgl_lang.traced import Act, Append, Assign, Fork, Join, Look, Trace, Traced, Unknowable, within
from sgl_lang.usage import Usage
from sgl_lang.variable import Variable

_MARK = re.compile("\ufdd0(\\d+)\ufdd1")  # how a traced value looks inside a str
_NOT_NOW = "{} is not known while a program is traced; run it instead"


class _Tracer:
    """What all states of a traced program write to."""

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.states = 1
        self.looks = 0
        self.values: list[Traced] = []

    def split(self, text: str) -> list[Part]:
        """The text, with the traced values that were formatted into it as parts of their own."""
        parts: list[Part] = []
        for place, piece in enumerate(_MARK.split(text)):
            if place % 2:
                parts.append(Unknown(self.values[int(piece)]))
            elif piece:
                parts.append(Text(piece))
        return parts

    def value(self, value: Any) -> Any:
        """A value that is kept: a str with traced values in it as an expression."""
        if isinstance(value, str):
            return Expr(tuple(self.split(value))) if _MARK.search(value) else value
        return within(value, self.value)


class _Recorder:
    """Stands in for an executor: writes down what it is told."""

    def __init__(self, tracer: _Tracer, number: int, names: set[str], role: Role | None) -> None:
        self.tracer = tracer
        self.number = number
        self.names_known = set(names)
        self.role = role

    def submit(self, expr: Expr) -> None:
        self.role = role_after(self.role, expr)
        for part in expr.parts:
            name = getattr(part, "name", None)
            if name is not None and not isinstance(part, ScopeBegin):
                self.names_known.add(name)
        parts: list[Part] = []
        try:
            for part in expr.parts:
                parts += self.tracer.split(part.text) if isinstance(part, Text) else [_known(part)]
        finally:  # what comes before a part that is not known is
            self.tracer.acts.append(Append(self.number, Expr(tuple(parts))))

    def set(self, name: str, value: Any) -> None:
        self.names_known.add(name)
        self.tracer.acts.append(Assign(self.number, name, self.tracer.value(value)))

    def find(self, name: str) -> Variable | None:
        return Variable() if name in self.names_known else None

    @property
    def run(self) -> _Recorder:
        return self

    ended = False


class TracedState(State):
    """The `s` of a program that is traced: reading gives `Traced` values."""

    def __init__(self, recorder: _Recorder) -> None:
        self._recorder = recorder
        super().__init__(recorder, inside=True)  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> Any:
        if name not in self._recorder.names_known:
            known = ", ".join(map(repr, sorted(self._recorder.names_known))) or "none yet"
            raise ProgramError(f"this program has no variable {name!r}; it has {known}")
        return self._look(f"s[{name!r}]", lambda state: state[name])

    def get_meta_info(self, name: str) -> Any:
        return self._look(f"the meta info of {name!r}", lambda state: state.get_meta_info(name))

    def text(self) -> Any:
        return self._look("the text", lambda state: state.text())

    def messages(self) -> Any:
        return self._look("the messages", lambda state: state.messages())

    def _look(self, label: str, what: Callable[[State], Any]) -> Traced:
        tracer = self._recorder.tracer
        place = tracer.looks
        tracer.looks += 1
        tracer.acts.append(Look(self._recorder.number, label, what))
        return Traced(tracer.values, label, lambda playing: playing.seen[place])

    def fork(self, size: int = 1) -> Forks[Any]:
        _check("fork", size)
        if type(size) is not int or size < 1:
            raise ProgramError(f"fork() takes the number of states, an int of at least 1, not {size!r}")
        mine, tracer = self._recorder, self._recorder.tracer
        first = tracer.states
        tracer.states += size
        tracer.acts.append(Fork(mine.number, size, first))
        recorders = [_Recorder(tracer, first + i, mine.names_known, mine.role) for i in range(size)]

        def join(states: list[TracedState], mode: str) -> None:
            tracer.acts.append(Join(mine.number, tuple(s._recorder.number for s in states), mode))
            if mode == "gather_variable":
                for recorder in recorders:
                    mine.names_known |= recorder.names_known

        return Forks([TracedState(recorder) for recorder in recorders], join)

    def sync(self) -> None:
        """Nothing to wait for."""

    def error(self) -> Exception | None:
        raise Unknowable(_NOT_NOW.format("error()"))

    def usage(self) -> Usage:
        raise Unknowable(_NOT_NOW.format("usage()"))

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        raise Unknowable(_NOT_NOW.format("text_iter()"))

    def text_async_iter(self, *_: Any, **__: Any) -> Any:
        raise Unknowable(_NOT_NOW.format("text_async_iter()"))


def trace(
    name: str, body: Callable[..., Any], known: Mapping[str, Any], unknown: tuple[str, ...], *, partial: bool
) -> Trace:
    """Run `body(s, **arguments)` without a model, with traced values for the `unknown` arguments.

    Raises ProgramError where the body looks at one; with `partial` the trace ends there instead.
    """
    tracer = _Tracer()

    def argument(name: str) -> Traced:
        return Traced(tracer.values, f"the argument {name!r}", lambda playing: playing.arguments[name])

    arguments = {**known, **{name: argument(name) for name in unknown}}
    result, whole = None, True
    try:
        result = body(TracedState(_Recorder(tracer, 0, set(), None)), **arguments)
    except Unknowable:
        if not partial:
            raise
        whole = False
    except (ProgramError, TypeError):
        # Python's own functions refuse what stands in for a value, and so do ours. If the mistake is the
        # program's, a run will tell.
        if not tracer.values or not partial:
            raise
        whole = False
    return Trace(name, unknown, tuple(tracer.acts), tracer.value(result), whole)


def _known(part: Part) -> Part:
    """A part that is no text. Raises Unknowable if something in it is not known."""
    match part:
        case Gen(name, params):
            _check("gen", (name, *params.said().items()))
        case Select(name, choices):
            _check("select", (name, choices))
        case ScopeBegin(name) | ScopeEnd(name):
            _check("var_scope", name)
    return part


def _check(what: str, value: Any) -> None:
    """Raises Unknowable if a traced value is in `value`."""
    if isinstance(value, Traced) or (isinstance(value, str) and _MARK.search(value)):
        raise Unknowable(
            f"an argument of {what}() is not known while the program is traced; give it to trace(), or run"
            " the program instead"
        )
    if isinstance(value, tuple):
        for each in value:
            _check(what, each)
