# SPDX-License-Identifier: Apache-2.0
"""Responses that may be asked for again or be answered: in memory, the latest so many bytes of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

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

    def get(self, id: str, param: str) -> StoredResponse:
        """Raises NotFound naming `param`."""
        if id not in self._stored:
            raise NotFound(
                f"{param}: no response {id[:100]!r} is kept: it was not stored, was deleted, or is older than"
                f" the {self._max_bytes >> 20} MiB that are kept while the server runs; send the conversation"
                f" as input",
                param=param,
            )
        self._stored.move_to_end(id)
        return msgspec.json.decode(self._stored[id], type=StoredResponse)

    def delete(self, id: str) -> None:
        """Raises NotFound."""
        self.get(id, "response_id")
        self._bytes -= len(self._stored.pop(id))
