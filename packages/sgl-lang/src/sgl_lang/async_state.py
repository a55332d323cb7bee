# SPDX-License-Identifier: Apache-2.0
"""`AsyncState`: the `s` of programs that are coroutines. What waits is awaited; appending is as in `State`.

While a program waits, the event loop is free, and no thread of the program's own is occupied.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Self

from sgl_lang.errors import ProgramError
from sgl_lang.executor import Executor
from sgl_lang.forks import AsyncForks, concatenate, gather
from sgl_lang.reader import Reader
from sgl_lang.state import pieces
from sgl_lang.usage import Usage
from sgl_lang.writing import Writing


class AsyncState(Writing):
    """The state of an `async def` program, and what `await program.run_async()` returns.

    `s += ...` as in any program; `await s["name"]` reads. The methods are those of `State`.
    """

    def __init__(self, executor: Executor, *, inside: bool) -> None:
        self._executor = executor
        self._inside = inside

    def __getitem__(self, name: str) -> Awaitable[Any]:
        """`await s["name"]` is the value of a variable; raises as `State` does."""
        return self.get_var(name)

    async def get_var(self, name: str) -> Any:
        """The same as `await s[name]`."""
        return (await self._over(name)).value()

    async def get_meta_info(self, name: str) -> Any:
        """What the backend reports of a generation; see `State.get_meta_info`."""
        reader = await self._over(name)
        reader.value()
        return reader.meta_info

    async def ret_value(self) -> Any:
        """What the program's function returned. Waits for its end, and raises what it raised."""
        if self._inside:
            raise ProgramError("a program returns a value when it ends, so it cannot read it itself")
        await self.sync()
        return self._executor.returned()

    # -- forks

    def fork(self, size: int = 1) -> AsyncForks[Self]:
        """`size` states that go on from here, each on its own. `await forks.join()` waits for them."""
        states = [type(self)(executor, inside=True) for executor in self._forked(size)]
        return AsyncForks(states, self._join)

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[Self]:
        """`async with s.copy() as c:`, as `State.copy`."""
        async with self.fork(1) as forks:
            yield forks[0]

    async def _join(self, states: list[Self], mode: str) -> None:
        readers = [await state._over(None) for state in states]
        children = [state._executor for state in states]
        if mode == "gather_variable":
            gather(self._executor, children)
        else:
            for reader in readers:
                reader.check()
            self._executor.submit(concatenate(children))

    # -- text

    async def text(self) -> str:
        """The whole text, prompt and markup included. Waits for all of it; raises what failed."""
        (await self._over(None)).check()
        return self._executor.transcript.text

    async def messages(self) -> list[dict[str, Any]]:
        """Turns in OpenAI's format; see `State.messages`."""
        (await self._over(None)).check()
        return [message.openai() for message in self._executor.transcript.messages]

    def text_iter(self, var_name: str | None = None, return_meta_data: bool = False) -> AsyncIterator[Any]:
        """`async for` over the pieces of the text, or of a variable; see `State.text_async_iter`."""
        return pieces(self._executor, var_name, inside=self._inside, meta=return_meta_data)

    # -- waiting

    async def sync(self) -> None:
        """Wait until everything is done or has failed. Raises nothing."""
        await self._over(None)

    async def error(self) -> Exception | None:
        """What went wrong first, or None. Waits like `sync`."""
        await self.sync()
        return None if self._executor.failure is None else self._executor.failure.error

    async def usage(self) -> Usage:
        """The tokens that this run, forks included, has cost. Waits like `sync`."""
        await self.sync()
        return self._executor.run.usage

    async def _over(self, name: str | None) -> Reader:
        reader = Reader(self._executor, name, inside=self._inside)
        if not reader.over:
            await self._executor.run.wait_async(lambda: reader.over)
        return reader
