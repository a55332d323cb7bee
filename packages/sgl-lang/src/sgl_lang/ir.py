# SPDX-License-Identifier: Apache-2.0
"""What a program appends: an `Expr` is a sequence of parts, and `+` concatenates.

A part is a value without identity; the same expression may be appended many times, by many programs at once.
The file does not know how a part is carried out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from sgl_lang.choices import ChoicesMethod
from sgl_lang.errors import ProgramError
from sgl_lang.media import Media
from sgl_lang.sampling import SamplingParams

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class Gen:
    """What the model says next, kept in the variable `name`."""

    name: str | None
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Select:
    """The choice that the model finds most likely, kept in the variable `name`."""

    name: str | None
    choices: tuple[str, ...]
    method: ChoicesMethod | None  # None: what suits the backend


@dataclass(frozen=True, slots=True)
class Show:
    """A picture or a film."""

    media: Media


@dataclass(frozen=True, slots=True)
class RoleBegin:
    """From here on `role` speaks."""

    role: Role


@dataclass(frozen=True, slots=True)
class RoleEnd:
    """`role` has spoken."""

    role: Role


@dataclass(frozen=True, slots=True)
class ScopeBegin:
    """From here on, what is said goes into the variable `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class ScopeEnd:
    """The variable `name` is complete."""

    name: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Text that a traced program will know when it runs."""

    value: Any


Part: TypeAlias = Text | Gen | Select | Show | RoleBegin | RoleEnd | ScopeBegin | ScopeEnd | Unknown


@runtime_checkable
class Expression(Protocol):
    """Something that can be written as an `Expr`, such as the arguments of a traced program."""

    def __sgl_expr__(self) -> Expr: ...


@dataclass(frozen=True, slots=True)
class Expr:
    """Something to append to a state: `"Q: " + question + gen("answer")`."""

    parts: tuple[Part, ...]

    def __add__(self, other: Expr | str) -> Expr:
        if isinstance(other, str | Expr | Expression):
            return Expr(self.parts + expression(other).parts)
        return NotImplemented

    def __radd__(self, other: str) -> Expr:
        if isinstance(other, str | Expression):
            return Expr(expression(other).parts + self.parts)
        return NotImplemented

    def __format__(self, spec: str) -> str:
        """Refused: in an f-string the expression would silently become the text of its `repr`."""
        raise ProgramError('an expression cannot stand in an f-string; write "..." + gen("name") + "..."')


def expression(value: object) -> Expr:
    """A str or an `Expr` as an `Expr`. Raises ProgramError on anything else."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        return Expr((Text(value),))
    if isinstance(value, Expression):
        return value.__sgl_expr__()
    raise ProgramError(
        f"a str or an expression such as gen(...) is expected here, not {type(value).__name__}"
    )


def role_after(role: Role | None, expr: Expr) -> Role | None:
    """Whose turn is open after an expression, if `role`'s was before. ProgramError if they do not match."""
    for part in expr.parts:
        match part:
            case RoleBegin(begins):
                if role is not None:
                    raise ProgramError(f"a turn of {begins!r} begins before the turn of {role!r} has ended")
                role = begins
            case RoleEnd(ends):
                if role != ends:
                    open_turn = "no turn is open" if role is None else f"the open turn is of {role!r}"
                    raise ProgramError(f"a turn of {ends!r} ends, but {open_turn}")
                role = None
    return role
