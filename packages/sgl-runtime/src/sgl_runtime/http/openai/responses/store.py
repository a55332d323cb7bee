# SPDX-License-Identifier: Apache-2.0
"""Responses that may be asked for again or be answered: in memory, the latest so many bytes of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

from sgl_runtime.engine.peers import Peers
from sgl_runtime.errors import NotFound

MAX_BYTES = 64 << 20


class StoredResponse(msgspec.Struct, frozen=True):
    """A response as it was answered, and the conversation up to its end."""

    response: Mapping[str, Any]
    turns: list[dict[str, Any]]


class ResponseStore:
    """By id. What was used least recently is forgotten beyond `max_bytes` of JSON."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._stored: OrderedDict[str, bytes] = OrderedDict()

    def put(self, id: str, stored: StoredResponse) -> None:
        data = msgspec.json.encode(stored)
        self._stored[id] = data
        self._bytes += len(data)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._stored.popitem(last=False)[1])

    def peek(self, id: str) -> bytes | None:
        """A StoredResponse as JSON, None if it is not kept."""
        if id in self._stored:
            self._stored.move_to_end(id)
        return self._stored.get(id)

    def drop(self, id: str) -> bool:
        """Whether it was kept."""
        data = self._stored.pop(id, b"")
        self._bytes -= len(data)
        return bool(data)


class ResponseBook:
    """The stores of all api processes: what one has answered another may be asked for."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._store = ResponseStore()
        peers.answer("response", lambda id: self._store.peek(id or "") or b"")
        peers.answer("forget", lambda id: self._store.drop(id or ""))

    def put(self, id: str, stored: StoredResponse) -> None:
        self._store.put(id, stored)

    async def get(self, id: str, param: str) -> StoredResponse:
        """Raises NotFound naming `param`."""
        found = self._store.peek(id)
        if found is None:
            told = await self._peers.ask("response", id, kind=bytes)
            found = next(filter(None, told), None)
        if found is None:
            raise NotFound(
                f"{param}: no response {id[:100]!r} is kept: it was not stored, was deleted, or is older than"
                f" the {MAX_BYTES >> 20} MiB that are kept while the server runs; send the conversation"
                f" as input",
                param=param,
            )
        return msgspec.json.decode(found, type=StoredResponse)

    async def delete(self, id: str) -> None:
        """Raises NotFound."""
        await self.get(id, "response_id")
        if not self._store.drop(id):
            await self._peers.ask("forget", id, kind=bool)
