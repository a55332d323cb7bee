# SPDX-License-Identifier: Apache-2.0
"""`State`: the `s` of every program, and what `run()` returns; a face on an `Executor`.

Seen from inside, by the program itself, "all" means all that was appended so far, because a program cannot
wait for its own end. Seen from outside it means all that the program will ever append.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self, overload

from sgl_lang.errors import ProgramError
from sgl_lang.executor import Executor
from sgl_lang.forks import Forks, concatenate, gather
from sgl_lang.reader import Reader
from sgl_lang.usage import Usage
from sgl_lang.writing import Writing


class State(Writing):
    """A program's state: the text so far and the variables in it.

    Appending (`s += ...`) does not wait for the model; reading does. A generation that fails raises its error
    wherever its text is read, and `error()` returns it.
    """

    def __init__(self, executor: Executor, *, inside: bool) -> None:
        self._executor = executor
        self._inside = inside

    # -- variables

    def __getitem__(self, name: str) -> Any:
        """The value of a variable: waits for it.

        Raises the error of the generation if it failed, and ProgramError if the program has no such variable.
        """
        return self._over(name).value()

    def get_var(self, name: str) -> Any:
        """The same as `s[name]`."""
        return self[name]

    def get_meta_info(self, name: str) -> Any:
        """What the backend reports of a generation: a dict of token counts, finish reason, log-probabilities.

        With `gen(n=...)` a list of those. Waits for the generation, and raises like `s[name]`.
        """
        reader = self._over(name)
        reader.value()
        return reader.meta_info

    @property
    def ret_value(self) -> Any:
        """What the program's function returned. Waits for its end, and raises what it raised."""
        if self._inside:
            raise ProgramError("a program returns a value when it ends, so it cannot read it itself")
        self.sync()
        return self._executor.returned()

    # -- forks

    def fork(self, size: int = 1) -> Forks[Self]:
        """`size` states that go on from here, each on its own; see `Forks`.

        Nothing waits: a fork begins when what was appended here so far is done. Raises ProgramError for a
        size that is no int of at least 1.
        """
        return Forks([type(self)(executor, inside=True) for executor in self._forked(size)], self._join)

    @contextmanager
    def copy(self) -> Iterator[Self]:
        """`with s.copy() as c:` goes on with a copy; then its new variables are here, as in `Forks.join`."""
        with self.fork(1) as forks:
            yield forks[0]

    def _join(self, states: list[Self], mode: str) -> None:
        """Wait for the forks and take over what they have."""
        readers = [state._over(None) for state in states]
        children = [state._executor for state in states]
        if mode == "gather_variable":
            gather(self._executor, children)
        else:
            for reader in readers:
                reader.check()
            self._executor.submit(concatenate(children))

    # -- text

    def text(self) -> str:
        """The whole text, prompt and markup included. Waits for all of it; raises what failed."""
        self._over(None).check()
        return self._executor.transcript.text

    def messages(self) -> list[dict[str, Any]]:
        """Turns in OpenAI's format, `{"role": ..., "content": ...}`. Waits for all; raises what failed.

        The content is a str, or a list of pieces where images are shown.
        """
        self._over(None).check()
        return [message.openai() for message in self._executor.transcript.messages]

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """The text, or that of one variable, in the pieces in which it comes into being.

        After `run(stream=True)` the pieces come while the model speaks, otherwise all at once. What failed is
        raised after the pieces that came before it.
        """
        reader = Reader(self._executor, var_name, inside=self._inside)
        over = False
        while not over:
            self._executor.run.wait_for(lambda: reader.ready)
            over = reader.over
            if piece := reader.take():
                yield piece
        if var_name is None:
            self._end()
        reader.check()

    @overload
    def text_async_iter(
        self, var_name: str | None = None, return_meta_data: Literal[False] = False
    ) -> AsyncIterator[str]: ...
    @overload
    def text_async_iter(
        self, var_name: str, return_meta_data: Literal[True]
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]: ...
    def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False
    ) -> AsyncIterator[Any]:
        """`text_iter` for coroutines: waiting leaves the event loop free and occupies no thread.

        With `return_meta_data` each piece is a pair: the text, and the meta info of the variable by then.
        """
        return pieces(self._executor, var_name, inside=self._inside, meta=return_meta_data)

    # -- waiting

    def sync(self) -> None:
        """Wait until everything is done or has failed. Raises nothing."""
        self._over(None)

    def error(self) -> Exception | None:
        """What went wrong first, or None. Waits like `sync`."""
        self.sync()
        return None if self._executor.failure is None else self._executor.failure.error

    def usage(self) -> Usage:
        """The tokens that this run, forks included, has cost. Waits like `sync`."""
        self.sync()
        return self._executor.run.usage

    def _over(self, name: str | None) -> Reader:
        """A reader of a text that is over: the variable's, or (None) the whole one."""
        reader = Reader(self._executor, name, inside=self._inside)
        if not reader.over:
            self._executor.run.wait_for(lambda: reader.over)
        if name is None:
            self._end()
        return reader

    def _end(self) -> None:
        if not self._inside:
            self._executor.run.join()


async def pieces(executor: Executor, name: str | None, *, inside: bool, meta: bool) -> AsyncIterator[Any]:
    """The text of a state or of a variable as it comes into being; with `meta`, each with its meta info."""
    if meta and name is None:
        raise ProgramError("return_meta_data=True needs var_name: a whole text has no meta info")
    reader = Reader(executor, name, inside=inside)
    over = False
    while not over:
        await executor.run.wait_async(lambda: reader.ready)
        over = reader.over
        if piece := reader.take():
            yield (piece, dict(reader.meta_info)) if meta else piece
    reader.check()
