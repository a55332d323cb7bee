# SPDX-License-Identifier: Apache-2.0
"""`Trace`: a program as data, found by running its body once without a model.

What is not known yet, arguments and what the model will say, stands as a `Traced` value, which can be
appended, formatted into text and indexed, but not looked at. So a trace holds all that the program does as
long as its course does not depend on such values. It can be run, printed, and asked how it begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from sgl_lang.chat import ChatTemplate
from sgl_lang.errors import ProgramError
from sgl_lang.executor import Variable
from sgl_lang.forks import Forks
from sgl_lang.ir import (
    Expr,
    Part,
    Role,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    Text,
    Unknown,
    expression,
    role_after,
)
from sgl_lang.state import State
from sgl_lang.transcript import Transcript

# A traced value inside a str: `f"{question}"`. Between two characters that no text has.
_MARK = re.compile("\ufdd0(\\d+)\ufdd1")


class Unknowable(ProgramError):
    """The body looks at a value that a trace has not."""


@dataclass(frozen=True, slots=True)
class Playing:
    """A trace that is being run: its states in the order in which they came to be, and its arguments."""

    states: list[State]
    arguments: Mapping[str, Any]
    seen: list[Any] = field(default_factory=list)  # what was read, in order

    def resolve(self, value: Any) -> Any:
        """The value itself, once it is known."""
        if isinstance(value, Traced):
            return value._value(self)
        if isinstance(value, str | Expr):
            expr = self.expr(expression(value))
            return "".join(part.text for part in expr.parts if isinstance(part, Text))
        return value

    def expr(self, expr: Expr) -> Expr:
        """The expression with all that was unknown in its place."""
        return Expr(tuple(self._part(part) for part in expr.parts))

    def _part(self, part: Part) -> Part:
        return Text(str(self.resolve(part.value))) if isinstance(part, Unknown) else part


class Traced:
    """A value that is not known while tracing. It has a name, for messages to people."""

    def __init__(self, tracer: _Tracer, name: str, value: Callable[[Playing], Any]) -> None:
        self._tracer = tracer
        self._name = name
        self._value = value
        self._number = tracer.register(self)

    def __sgl_expr__(self) -> Expr:
        return Expr((Unknown(self),))

    def __add__(self, other: Any) -> Expr:
        return expression(self) + expression(other)

    def __radd__(self, other: Any) -> Expr:
        return expression(other) + expression(self)

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        formatted = Traced(
            self._tracer, f"{self._name}:{spec}", lambda playing: format(playing.resolve(self), spec)
        )
        return str(formatted)

    def __str__(self) -> str:
        return f"\ufdd0{self._number}\ufdd1"

    def __repr__(self) -> str:
        return f"<{self._name}>"

    def __getitem__(self, key: Any) -> Traced:
        name = f"{self._name}[{key!r}]"
        return Traced(self._tracer, name, lambda playing: playing.resolve(self)[playing.resolve(key)])

    def _look(self, *_: Any) -> NoReturn:
        raise Unknowable(
            f"the program looks at {self._name}, which is not known while it is traced; give it to trace(),"
            " or run the program instead"
        )

    __bool__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __len__ = __iter__ = __contains__ = _look
    __int__ = __float__ = __index__ = __mul__ = __mod__ = __sub__ = __call__ = _look
    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._look()


@dataclass(frozen=True, slots=True)
class Append:
    """State number `state` says something."""

    state: int
    expr: Expr


@dataclass(frozen=True, slots=True)
class Look:
    """State number `state` is read."""

    state: int
    label: str
    what: Callable[[State], Any]


@dataclass(frozen=True, slots=True)
class Assign:
    """State number `state` sets a variable."""

    state: int
    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class Fork:
    """State number `state` is forked; the forks are numbered from `first` on."""

    state: int
    size: int
    first: int


@dataclass(frozen=True, slots=True)
class Join:
    """Forks numbered `states` come back to state number `state`."""

    state: int
    states: tuple[int, ...]
    mode: str


Act: TypeAlias = Append | Look | Assign | Fork | Join


@dataclass(frozen=True)
class Trace:
    """What a program does, in order.

    Attributes:
        name: of the program.
        arguments: the names of the arguments that it was traced without.
        acts: what it does.
        result: what it returns.
        whole: False if it was traced only as far as its course was known.
    """

    name: str
    arguments: tuple[str, ...]
    acts: tuple[Act, ...]
    result: Any = field(repr=False)
    whole: bool = True

    def play(self, s: State, **arguments: Any) -> Any:
        """Do on `s` what the program does, with these arguments; returns what it returns."""
        playing = Playing([s], arguments)
        states = playing.states
        forks: dict[int, Forks[State]] = {}
        for act in self.acts:
            match act:
                case Append(state, expr):
                    states[state] += playing.expr(expr)
                case Look(state, _, what):
                    playing.seen.append(what(states[state]))
                case Assign(state, name, value):
                    states[state][name] = playing.resolve(value)
                case Fork(state, size, first):
                    forks[first] = states[state].fork(size)
                    states.extend(forks[first])
                case Join(_, members, mode):
                    forks[members[0]].join(mode)  # type: ignore[arg-type]
        return playing.resolve(self.result)

    def prefix(self, template: ChatTemplate) -> str:
        """How every text of this program begins, whatever its arguments, with the markup of `template`."""
        transcript = Transcript()
        for act in self.acts:
            if not isinstance(act, Append) or act.state != 0:
                continue
            for part in act.expr.parts:
                match part:
                    case Text(text):
                        transcript = transcript.add(text)
                    case RoleBegin(role):
                        transcript = transcript.begin(role, template)
                    case RoleEnd():
                        transcript = transcript.end(template)
                    case ScopeBegin() | ScopeEnd():
                        pass
                    case _:
                        return transcript.text
        return transcript.text

    def __str__(self) -> str:
        """One line for each act."""
        lines = [f"{self.name}({', '.join(self.arguments)})" + ("" if self.whole else " as far as known")]
        for act in self.acts:
            match act:
                case Append(state, expr):
                    lines.append(f"  s{state} += {' + '.join(map(repr, expr.parts))}")
                case Look(state, label):
                    lines.append(f"  s{state}: {label}")
                case Assign(state, name, value):
                    lines.append(f"  s{state}[{name!r}] = {value!r}")
                case Fork(state, size, first):
                    lines.append(f"  s{first}..s{first + size - 1} = s{state}.fork({size})")
                case Join(state, members, mode):
                    lines.append(
                        f"  s{state}.join({', '.join(f's{member}' for member in members)}, {mode!r})"
                    )
        return "\n".join(lines)


class _Tracer:
    """What all states of a traced program write to."""

    def __init__(self) -> None:
        self.acts: list[Act] = []
        self.states = 1
        self.looks = 0
        self._values: list[Traced] = []

    def register(self, value: Traced) -> int:
        self._values.append(value)
        return len(self._values) - 1

    def split(self, expr: Expr) -> Expr:
        """The expression, with the traced values that were formatted into its texts as parts of their own."""
        parts: list[Part] = []
        for part in expr.parts:
            if not isinstance(part, Text):
                parts.append(part)
                continue
            for place, piece in enumerate(_MARK.split(part.text)):
                if place % 2:
                    parts.append(Unknown(self._values[int(piece)]))
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
        return Traced(tracer, label, lambda playing: playing.seen[place])

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
        return Traced(tracer, f"the argument {name!r}", lambda playing: playing.arguments[name])

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
