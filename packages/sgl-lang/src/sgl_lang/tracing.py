# SPDX-License-Identifier: Apache-2.0
"""`trace`: finds what a program does by running its body once, without a model, on a state that takes notes.

What it finds is a `traced.Trace`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sgl_lang.errors import ProgramError
from sgl_lang.forks import Forks
from sgl_lang.ir import Expr, Part, Role, ScopeBegin, Text, Unknown, expression, role_after
from sgl_lang.state import State
from sgl_lang.traced import Act, Append, Assign, Fork, Join, Look, Trace, Traced, Unknowable
from sgl_lang.variable import Variable

_MARK = re.compile("\ufdd0(\\d+)\ufdd1")  # how a traced value looks inside a str


class _Tracer:
    """What all states of a traced program write to."""

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.states = 1
        self.looks = 0
        self.values: list[Traced] = []

    def split(self, expr: Expr) -> Expr:
        """The expression, with the traced values that were formatted into its texts as parts of their own."""
        parts: list[Part] = []
        for part in expr.parts:
            if not isinstance(part, Text):
                parts.append(part)
                continue
            for place, piece in enumerate(_MARK.split(part.text)):
                if place % 2:
                    parts.append(Unknown(self.values[int(piece)]))
                elif piece:
                    parts.append(Text(piece))
        return Expr(tuple(parts))


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
        self.tracer.acts.append(Append(self.number, self.tracer.split(expr)))

    def set(self, name: str, value: Any) -> None:
        self.names_known.add(name)
        split = self.tracer.split(expression(value)) if isinstance(value, str) else value
        self.tracer.acts.append(Assign(self.number, name, split))

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
        raise Unknowable("error() is not known while a program is traced")


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
    if isinstance(result, str):
        result = tracer.split(expression(result))
    return Trace(name, unknown, tuple(tracer.acts), result, whole)
