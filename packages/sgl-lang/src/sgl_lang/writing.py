# SPDX-License-Identifier: Apache-2.0
"""`Writing`: what can be appended to a state, in the same words for programs that wait, and for coroutines.

Nothing here waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self, overload

from sgl_lang.errors import ProgramError
from sgl_lang.executor import Executor
from sgl_lang.ir import Expr, Role, RoleBegin, RoleEnd, ScopeBegin, ScopeEnd, expression
from sgl_lang.primitives import turn


class Writing:
    """The half of a state that appends."""

    _executor: Executor

    def __iadd__(self, other: str | Expr) -> Self:
        """Append text or an expression.

        Raises ProgramError for anything else, and for turns out of order; UnsupportedByBackend for what the
        backend cannot do.
        """
        self._executor.submit(expression(other))
        return self

    @overload
    def system(self) -> AbstractContextManager[Self]: ...
    @overload
    def system(self, content: str | Expr) -> Expr: ...
    def system(self, content: str | Expr | None = None) -> Expr | AbstractContextManager[Self]:
        """`s.system("...")` is `system("...")`; `with s.system():` makes a turn of what it appends."""
        return self._turn("system", content)

    @overload
    def user(self) -> AbstractContextManager[Self]: ...
    @overload
    def user(self, content: str | Expr) -> Expr: ...
    def user(self, content: str | Expr | None = None) -> Expr | AbstractContextManager[Self]:
        """`s.user("...")` is `user("...")`; `with s.user():` makes a turn of what it appends."""
        return self._turn("user", content)

    @overload
    def assistant(self) -> AbstractContextManager[Self]: ...
    @overload
    def assistant(self, content: str | Expr) -> Expr: ...
    def assistant(self, content: str | Expr | None = None) -> Expr | AbstractContextManager[Self]:
        """`s.assistant(...)` is `assistant(...)`; `with s.assistant():` makes a turn of what it appends."""
        return self._turn("assistant", content)

    def var_scope(self, name: str) -> AbstractContextManager[Self]:
        """`with s.var_scope("answer"):` keeps all that it appends, markup included, in a variable."""
        return self._between(Expr((ScopeBegin(name),)), Expr((ScopeEnd(name),)))

    def __setitem__(self, name: str, value: Any) -> None:
        self._executor.set(name, value)

    def set_var(self, name: str, value: Any) -> None:
        """The same as `s[name] = value`."""
        self[name] = value

    def __contains__(self, name: str) -> bool:
        """Whether the program has asked for this variable or set it; its value may still be on its way."""
        return self._executor.find(name) is not None

    def _turn(self, role: Role, content: str | Expr | None) -> Expr | AbstractContextManager[Self]:
        if content is not None:
            return turn(role, content)
        return self._between(Expr((RoleBegin(role),)), Expr((RoleEnd(role),)))

    @contextmanager
    def _between(self, begin: Expr, end: Expr) -> Iterator[Self]:
        self._executor.submit(begin)
        try:
            yield self
        finally:
            if not self._executor.run.ended:  # else an interrupted program would hear that it has ended
                self._executor.submit(end)

    def _forked(self, size: int) -> tuple[Executor, ...]:
        if type(size) is not int or size < 1:
            raise ProgramError(f"fork() takes the number of states, an int of at least 1, not {size!r}")
        return self._executor.fork(size)
