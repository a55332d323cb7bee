# SPDX-License-Identifier: Apache-2.0
"""`Trace`: a program as data, and `Traced`: a value that is not known before the program runs.

A traced value can be appended, formatted into text and indexed, but not looked at. So a trace holds all that
the program does, as long as its course does not depend on such values. It can be run, printed, and asked how
it begins. How a trace is found is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from sgl_lang.chat import ChatTemplate
from sgl_lang.errors import ProgramError
from sgl_lang.forks import Forks
from sgl_lang.ir import Expr, Part, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, Text, Unknown, expression
from sgl_lang.state import State
from sgl_lang.transcript import Transcript


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
        if isinstance(value, Expr):
            return "".join(part.text for part in self.expr(value).parts if isinstance(part, Text))
        return within(value, self.resolve)

    def expr(self, expr: Expr) -> Expr:
        """The expression with all that was unknown in its place."""
        return Expr(tuple(self._part(part) for part in expr.parts))

    def _part(self, part: Part) -> Part:
        return Text(str(self.resolve(part.value))) if isinstance(part, Unknown) else part


def within(value: Any, change: Callable[[Any], Any]) -> Any:
    """A list, tuple or dict with what it holds changed; anything else as it is."""
    if type(value) in (list, tuple):
        return type(value)(map(change, value))
    if type(value) is dict:
        return {key: change(each) for key, each in value.items()}
    return value


class Traced:
    """A value that is not known while tracing. It has a name, for messages to people."""

    def __init__(self, known: list[Traced], name: str, value: Callable[[Playing], Any]) -> None:
        """`known`: the traced values of one trace, in the order in which they came to be."""
        self._known = known
        self._name = name
        self._value = value
        self._number = len(known)
        known.append(self)

    def __sgl_expr__(self) -> Expr:
        return Expr((Unknown(self),))

    def __add__(self, other: Any) -> Expr:
        return expression(self) + expression(other)

    def __radd__(self, other: Any) -> Expr:
        return expression(other) + expression(self)

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        return self._text(f"{self._name}:{spec}", lambda value: format(value, spec))

    def __str__(self) -> str:
        """Its mark, by which it is found again in a text: a number between characters that no text has."""
        return f"\ufdd0{self._number}\ufdd1"

    def __repr__(self) -> str:
        """The mark of its repr, for f"{value!r}"; what people read is `told`."""
        return self._text(f"repr of {self._name}", repr)

    def _text(self, name: str, of: Callable[[Any], str]) -> str:
        return str(Traced(self._known, name, lambda playing: of(playing.resolve(self))))

    def __getitem__(self, key: Any) -> Traced:
        name = f"{self._name}[{told(key)}]"
        return Traced(self._known, name, lambda playing: playing.resolve(self)[playing.resolve(key)])

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


def told(value: Any) -> str:
    """A value for people to read."""
    match value:
        case Traced():
            return f"<{value._name}>"
        case Unknown(traced):
            return told(traced)
        case Expr(parts):
            return " + ".join(map(told, parts))
    return repr(value)


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
                    lines.append(f"  s{state} += {told(expr)}")
                case Look(state, label):
                    lines.append(f"  s{state}: {label}")
                case Assign(state, name, value):
                    lines.append(f"  s{state}[{name!r}] = {told(value)}")
                case Fork(state, size, first):
                    lines.append(f"  s{first}..s{first + size - 1} = s{state}.fork({size})")
                case Join(state, members, mode):
                    lines.append(
                        f"  s{state}.join({', '.join(f's{member}' for member in members)}, {mode!r})"
                    )
        return "\n".join(lines)
