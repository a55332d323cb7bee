# SPDX-License-Identifier: Apache-2.0
"""`State`: the `s` of every program, and what `run()` returns; a face on an `Executor`.

Seen from inside, by the program itself, "all" means all that was appended so far, because a program cannot
wait for its own end. Seen from outside it means all that the program will ever append.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal, overload

from sgl_lang.errors import ProgramError
from sgl_lang.executor import Executor, Variable
from sgl_lang.ir import Expr, Role, RoleBegin, RoleEnd, expression
from sgl_lang.primitives import turn
from sgl_lang.reader import Reader, value


class State:
    """A program's state: the text so far and the variables in it.

    Appending (`s += ...`) does not wait for the model; reading does. A generation that fails raises its error
    wherever its text is read, and `error()` returns it.
    """

    def __init__(self, executor: Executor, *, inside: bool) -> None:
        self._executor = executor
        self._inside = inside

    # -- appending

    def __iadd__(self, other: str | Expr) -> State:
        """Append text or an expression. Raises ProgramError for anything else, and for turns out of order."""
        self._executor.submit(expression(other))
        return self

    @overload
    def system(self) -> AbstractContextManager[State]: ...
    @overload
    def system(self, content: str | Expr) -> Expr: ...
    def system(self, content: str | Expr | None = None) -> Expr | AbstractContextManager[State]:
        """`s.system("...")` is `system("...")`; `with s.system():` makes a turn of what it appends."""
        return self._turn("system", content)

    @overload
    def user(self) -> AbstractContextManager[State]: ...
    @overload
    def user(self, content: str | Expr) -> Expr: ...
    def user(self, content: str | Expr | None = None) -> Expr | AbstractContextManager[State]:
        """`s.user("...")` is `user("...")`; `with s.user():` makes a turn of what it appends."""
        return self._turn("user", content)

    @overload
    def assistant(self) -> AbstractContextManager[State]: ...
    @overload
    def assistant(self, content: str | Expr) -> Expr: ...
    def assistant(self, content: str | Expr | None = None) -> Expr | AbstractContextManager[State]:
        """`s.assistant(...)` is `assistant(...)`; `with s.assistant():` makes a turn of what it appends."""
        return self._turn("assistant", content)

    def _turn(self, role: Role, content: str | Expr | None) -> Expr | AbstractContextManager[State]:
        return self._scope(role) if content is None else turn(role, content)

    @contextmanager
    def _scope(self, role: Role) -> Iterator[State]:
        self._executor.submit(Expr((RoleBegin(role),)))
        try:
            yield self
        finally:
            if not self._executor.ended:  # else an interrupted program would hear that it has ended
                self._executor.submit(Expr((RoleEnd(role),)))

    # -- variables

    def __getitem__(self, name: str) -> Any:
        """The value of a variable: waits for it.

        Raises the error of the generation if it failed, and ProgramError if the program has no such variable.
        """
        return value(self._executor, name, self._await(name))

    def __setitem__(self, name: str, value: Any) -> None:
        self._executor.set(name, value)

    def __contains__(self, name: str) -> bool:
        """Whether the program has asked for this variable or set it; its value may still be on its way."""
        return self._executor.find(name) is not None

    def get_var(self, name: str) -> Any:
        """The same as `s[name]`."""
        return self[name]

    def set_var(self, name: str, value: Any) -> None:
        """The same as `s[name] = value`."""
        self[name] = value

    def get_meta_info(self, name: str) -> dict[str, Any]:
        """What the backend reports of a generation: token counts, finish reason, log-probabilities.

        Waits for the generation, and raises like `s[name]`.
        """
        variable = self._await(name)
        value(self._executor, name, variable)
        return {} if variable is None else dict(variable.meta_info)

    @property
    def ret_value(self) -> Any:
        """What the program's function returned. Waits for its end, and raises what it raised."""
        if self._inside:
            raise ProgramError("a program returns a value when it ends, so it cannot read it itself")
        self.sync()
        if self._executor.returned.exception() is not None:
            self._executor.raise_error()
        return self._executor.returned.result()

    # -- text

    def text(self) -> str:
        """The whole text, prompt and markup included. Waits for all of it; raises what failed."""
        self._finished().check()
        return self._executor.transcript.text

    def messages(self) -> list[dict[str, Any]]:
        """Turns in OpenAI's format, `{"role": ..., "content": ...}`. Waits for all; raises what failed."""
        self._finished().check()
        return [message.openai() for message in self._executor.transcript.messages]

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """The text, or that of one variable, in the pieces in which it comes into being.

        After `run(stream=True)` the pieces come while the model speaks, otherwise all at once. What failed is
        raised after the pieces that came before it.
        """
        reader = Reader(self._executor, var_name, inside=self._inside)
        over = False
        while not over:
            self._executor.wait_for(lambda: reader.ready)
            over = reader.over
            if piece := reader.take():
                yield piece
        if var_name is None:
            self._join()
        reader.check()

    @overload
    def text_async_iter(
        self, var_name: str | None = None, return_meta_data: Literal[False] = False
    ) -> AsyncIterator[str]: ...
    @overload
    def text_async_iter(
        self, var_name: str, return_meta_data: Literal[True]
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]: ...
    async def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False
    ) -> AsyncIterator[Any]:
        """`text_iter` for coroutines: waiting leaves the event loop free and occupies no thread.

        With `return_meta_data` each piece is a pair: the text, and the meta info of the variable by then.
        """
        if return_meta_data and var_name is None:
            raise ProgramError("return_meta_data=True needs var_name: a whole text has no meta info")
        reader = Reader(self._executor, var_name, inside=self._inside)
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            # RuntimeError: the loop was closed over an unfinished iteration, so nobody is waiting.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(changed.set)

        with self._executor.listening(wake):
            over = False
            while not over:
                while not reader.ready:
                    await changed.wait()
                    changed.clear()
                over = reader.over
                if piece := reader.take():
                    yield (piece, dict(reader.meta_info)) if return_meta_data else piece
        reader.check()

    # -- waiting

    def sync(self) -> None:
        """Wait until everything is done or has failed. Raises nothing."""
        self._finished()

    def error(self) -> Exception | None:
        """What went wrong first, or None. Waits like `sync`."""
        self.sync()
        return self._executor.error

    def _finished(self) -> Reader:
        """A reader of the whole text, which is over."""
        reader = Reader(self._executor, None, inside=self._inside)
        self._executor.wait_for(lambda: reader.over)
        self._join()
        return reader

    def _await(self, name: str) -> Variable | None:
        """The variable, done; or None if there is none and, as far as can be known, there will be none."""
        reader = Reader(self._executor, name, inside=self._inside)
        self._executor.wait_for(lambda: reader.over)
        return reader.variable

    def _join(self) -> None:
        if not self._inside:
            self._executor.join()
