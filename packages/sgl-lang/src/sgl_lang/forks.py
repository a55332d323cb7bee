# SPDX-License-Identifier: Apache-2.0
"""`Forks`: states that went on from the same place, and how what they have comes back together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar, overload

from sgl_lang.errors import ProgramError
from sgl_lang.executor import Executor
from sgl_lang.ir import Expr, Expression, Part, Role, RoleBegin, RoleEnd, Show, Text, expression
from sgl_lang.media import Media
from sgl_lang.variable import Variable
from sgl_lang.writing import Writing

S = TypeVar("S", bound=Writing)
Mode: TypeAlias = Literal["gather_variable", "concate_and_append"]
_MODES = ("gather_variable", "concate_and_append")


class _Group(Sequence[S], Generic[S]):
    """Several states that are appended to together."""

    def __init__(self, states: list[S], join: Callable[[list[S], str], Any]) -> None:
        self._states = states
        self._join = join

    @overload
    def __getitem__(self, index: int) -> S: ...
    @overload
    def __getitem__(self, index: slice) -> list[S]: ...
    def __getitem__(self, index: int | slice) -> S | list[S]:
        return self._states[index]

    def __setitem__(self, index: int, state: S) -> None:
        """For `forks[0] += ...`, which appends and then stores the same state."""
        if self._states[index] is not state:
            raise ProgramError("a fork cannot be replaced by another state")

    def __len__(self) -> int:
        return len(self._states)

    def __iadd__(self, other: str | Expr | Iterable[str | Expr] | Callable[[int], str | Expr]) -> Self:
        for state, entry in zip(self._states, self._entries(other), strict=True):
            state.__iadd__(entry)
        return self

    def _entries(self, other: Any) -> list[str | Expr]:
        if isinstance(other, str | Expr | Expression):
            return [expression(other)] * len(self)
        if callable(other):
            return [other(index) for index in range(len(self))]
        entries = list(other) if isinstance(other, Iterable) else [other] * len(self)
        if len(entries) != len(self):
            raise ProgramError(f"{len(entries)} expressions cannot be appended to {len(self)} forks")
        return entries


class Forks(_Group[S]):
    """What `s.fork(n)` returns: a sequence of `n` states.

    `forks += x` appends to each: an expression to all, the entries of a list one to each, or what a function
    of the state's number returns. As a context manager it joins at the end.
    """

    def join(self, mode: Mode = "gather_variable") -> None:
        """Wait for all forks and take over what they have.

        Args:
            mode: "gather_variable": each variable that the forks have set becomes a variable of the state
                they came from: the list of their values, in the order of the forks (of those that have it).
                "concate_and_append": the texts of the forks are appended to that state, one after another.

        Raises ProgramError for another mode. A generation that failed in a fork raises its error when the
        gathered variable is read, or here, where its text is needed.
        """
        self._join(self._states, _checked(mode))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.join()


class AsyncForks(_Group[S]):
    """What `s.fork(n)` returns in a program that is a coroutine; see `Forks`. Used with `async with`."""

    async def join(self, mode: Mode = "gather_variable") -> None:
        """`Forks.join` for coroutines."""
        await self._join(self._states, _checked(mode))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.join()


def gather(parent: Executor, children: Sequence[Executor]) -> None:
    """Let the parent have the variables of the children, which are idle, as lists."""
    own = [child.own for child in children]
    for name in {name: None for variables in own for name in variables}:
        several = [variables[name] for variables in own if name in variables]
        parent.put(name, _listed(several))


def concatenate(children: Sequence[Executor]) -> Expr:
    """What the children, which are idle, have said since they were forked, as one expression.

    Raises ProgramError if one of them is in another turn than when it began.
    """
    parts: list[Part] = []
    for child in children:
        began, now = child.origin, child.transcript
        if began.role != now.role or (began.role is not None and len(began.closed) != len(now.closed)):
            raise ProgramError("join(): a fork that is concatenated must end in the turn in which it began")
        if began.role is not None or len(began.closed) == len(now.closed):
            parts += _written(now.since(len(began.text)))
            continue
        for message in now.closed[len(began.closed) :]:
            role: Role = message.role  # type: ignore[assignment]
            content = (message.content,) if isinstance(message.content, str) else message.content
            parts += [RoleBegin(role), *_written(content), RoleEnd(role)]
    return Expr(tuple(parts))


def _written(pieces: Iterable[str | Media]) -> list[Part]:
    return [Text(piece) if isinstance(piece, str) else Show(piece) for piece in pieces]


def _checked(mode: str) -> str:
    if mode not in _MODES:
        raise ProgramError(f"join(): mode must be {' or '.join(map(repr, _MODES))}, not {mode!r}")
    return mode


def _listed(several: Sequence[Variable]) -> Variable:
    """A variable whose value is the list of these values; one that failed is its failure."""
    listed = Variable()
    failures = (variable.failure for variable in several if variable.failure is not None)
    if (failure := next(failures, None)) is not None:
        listed.fail(failure)
        return listed
    values = [variable.value() for variable in several]
    listed.fill(values, "".join(map(str, values)), [variable.meta_info for variable in several])
    return listed
