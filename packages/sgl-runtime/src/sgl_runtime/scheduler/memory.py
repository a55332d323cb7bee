# SPDX-License-Identifier: Apache-2.0
"""`Memory`: who holds which slots and rows, through the life of a running request.

Every slot is in the pool, in the prefix cache, or a running request's own; every row is in the pool or a
running request's. Requests enter, share what they compute, and leave; when and why is the scheduler's
business.
"""

from __future__ import annotations

import numpy as np

from sgl_runtime.cache.prefix import Node, PrefixCache
from sgl_runtime.cache.rows import RowPool
from sgl_runtime.cache.slots import SlotPool
from sgl_runtime.messages import I32, Capacity
from sgl_runtime.scheduler.request import Request
from sgl_runtime.scheduler.table import Table


class Memory:
    def __init__(self, capacity: Capacity, cache: PrefixCache) -> None:
        self.cache = cache
        self.pool = SlotPool(capacity.slots)
        self.rows = RowPool(capacity.rows)
        self.table = Table(capacity.rows, min(capacity.context_length, capacity.slots))
        self.version = 0  # another one whenever requests enter or leave rows, or pin other prefixes

    @property
    def total(self) -> int:
        return self.pool.total

    @property
    def available(self) -> int:
        """Slots that can be had without taking any from a running request."""
        return self.pool.free + self.cache.evictable

    @property
    def used(self) -> int:
        return self.pool.total - self.available

    def take(self, count: int) -> I32:
        """`count` slots, [count], evicting what it must. The caller checks `available` first."""
        if count > self.pool.free:
            self.pool.give(self.cache.evict(count - self.pool.free))
        return self.pool.take(count)

    def enter(self, request: Request, pin: Node, cached: int) -> None:
        """Give the request a row that begins with the `cached` tokens of the pinned prefix."""
        self.version += 1
        request.row = self.rows.take()
        request.pin = pin
        request.shared = request.same = cached
        self.table.enter(request, request.row, pin.prefix_slots())
        self.table.shared[request.row] = cached

    def share(self, request: Request) -> None:
        """Let others find what the request has computed, or will have before any later batch."""
        table, row = self.table, request.row
        # Computed tokens whose value is not known yet cannot be looked up.
        reach = min(int(table.computed[row]), request.known)
        if reach <= request.shared or not self.cache.remembers:
            return
        assert request.pin is not None, "running requests hold a pin"
        self.version += 1
        inserted = self.cache.insert(request.tokens()[:reach], table.slots[row, :reach])
        pin = self.cache.pin(inserted.match)
        self.cache.unpin(request.pin)
        request.pin = pin
        if inserted.present <= request.shared == request.same:
            request.same = reach
        if inserted.present > request.shared:
            request.spare.append(table.slots[row, request.shared : inserted.present].copy())
        request.shared = table.shared[row] = reach

    def leave(self, request: Request, *, keep: bool = True) -> None:
        """Take everything back. What it has computed stays in the prefix cache, unless it is not to be kept:
        then as much of its prefix goes as nobody else uses."""
        assert request.pin is not None, "running requests hold a pin"
        self.table.sync(request)
        if keep:
            self.share(request)
        self.version += 1
        row = request.row
        own = self.table.slots[row, request.shared : self.table.computed[row]]
        self.pool.give(np.concatenate((own, *request.spare)))
        if keep:
            self.cache.unpin(request.pin)
        else:
            self.pool.give(self.cache.forget(request.pin))
        self.table.leave(row)
        self.rows.give(row)
        request.leave_row()

    def flush(self) -> None:
        """Empty the prefix cache, as far as nothing is pinned."""
        self.pool.give(self.cache.evict(self.cache.evictable))
