# SPDX-License-Identifier: Apache-2.0
"""`Flights`: the book of what is in flight: which stream, on which replica, under which names.

A stream is entered when its request is accepted and struck out when it ends, however it ends. Sends nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

from sgl_runtime.engine.stream import Stream


class Flight:
    """A stream under way. `awaits`: the rid of the Prompt.first after which it is sent, None once it is."""

    def __init__(self, stream: Stream, replica: int, names: Collection[str], awaits: str | None) -> None:
        self.stream = stream
        self.replica = replica
        self.names = frozenset(names)
        self.awaits = awaits


class Flights:
    """Iterating gives all streams; the length is their number."""

    def __init__(self, replicas: int) -> None:
        self.per_replica = [0] * replicas
        self._by_rid: dict[str, Flight] = {}  # the rid on the wire
        self._by_name: dict[str, dict[str, Stream]] = {}  # a user's name for some of them -> by rid
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._by_rid)

    def __iter__(self) -> Iterator[Stream]:
        return iter([flight.stream for flight in self._by_rid.values()])

    def enter(
        self, stream: Stream, replica: int, names: Collection[str] = (), *, awaits: str | None = None
    ) -> None:
        """`names`: by which it can be found again; a stream without any is nobody's."""
        rid = stream.sample.generate.rid
        flight = self._by_rid[rid] = Flight(stream, replica, names, awaits)
        for name in flight.names:
            self._by_name.setdefault(name, {})[rid] = stream
        self.per_replica[replica] += 1
        self._empty.clear()

    def strike(self, stream: Stream) -> Flight | None:
        """Take a stream out; None if it was not in."""
        rid = stream.sample.generate.rid
        flight = self._by_rid.pop(rid, None)
        if flight is None:
            return None
        for name in flight.names:
            del self._by_name[name][rid]
            if not self._by_name[name]:
                del self._by_name[name]
        self.per_replica[flight.replica] -= 1
        if not self._by_rid:
            self._empty.set()
        return flight

    def get(self, rid: str) -> Flight | None:
        return self._by_rid.get(rid)

    def named(self, name: str | None) -> list[Stream]:
        """Those of that name; for None, all that have any."""
        groups = self._by_name.values() if name is None else [self._by_name.get(name, {})]
        return list({rid: stream for group in groups for rid, stream in group.items()}.values())

    def taken(self, names: Collection[str]) -> list[str]:
        """Those of `names` that are in use."""
        return sorted(self._by_name.keys() & set(names))

    async def empty(self) -> None:
        """Return when nothing is in flight."""
        await self._empty.wait()
