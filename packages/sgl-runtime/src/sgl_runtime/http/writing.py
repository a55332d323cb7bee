# SPDX-License-Identifier: Apache-2.0
"""`write`: an extension of ASGI by which a piece of a body goes to the socket without being awaited.

A stream has a piece for every token, and nearly all of them wait for nobody: for those, `send` is a coroutine
in each layer of the application that comes to nothing. Where a client does not keep up, `send` remains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

from hypercorn.typing import AppWrapper, ASGIReceiveCallable, ASGISendCallable
from hypercorn.typing import Scope as ServerScope
from starlette.types import Scope

_NAME = "sgl_runtime.write"

# Between the start of an answer and its end. False: nothing was written, it is to be sent, which may wait.
Write: TypeAlias = Callable[[bytes], bool]


class WithWrite:
    """hypercorn's kind of application: `app`, whose requests can be answered by `write` too."""

    def __init__(self, app: AppWrapper, write: Write) -> None:
        self._app = app
        self._write = write

    async def __call__(
        self,
        scope: ServerScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        assert scope["type"] == "http", "no other kind is begun"
        scope["extensions"][_NAME] = {"write": self._write}
        await self._app(scope, receive, send, sync_spawn, call_soon)


def write_of(scope: Scope) -> Write:
    """A request's; where the server has none, everything is left to `send`."""
    extension = scope.get("extensions", {}).get(_NAME)
    return (lambda data: False) if extension is None else extension["write"]


def is_clear(transport: asyncio.WriteTransport) -> bool:
    """All that was written before has left, so more can follow without waiting and nothing gathers."""
    return not transport.get_write_buffer_size() and not transport.is_closing()
