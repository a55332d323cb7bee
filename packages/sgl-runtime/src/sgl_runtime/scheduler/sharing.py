# SPDX-License-Identifier: Apache-2.0
"""`Sharing`: which decoding rows begin with the same slots, so that attention may read those once for all.

Requests that found the same prefix in the cache, or put it there, hold pins below one node of the radix tree,
and their rows begin with that node's slots. Rows are put into groups, each under one node: first under the
node where most reading is saved. Decode steps of unchanged rows reuse the answer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sgl_runtime.messages import I32, SharedRun
from sgl_runtime.scheduler.memory import Memory
from sgl_runtime.scheduler.request import Request

_WORTH = 64  # shortest prefixes that a step must not read again, or it is not worth its launches


class Arranged(NamedTuple):
    rows: I32  # a permutation of the rows: those of a group stand together
    runs: tuple[SharedRun, ...]


class Sharing:
    def __init__(self, memory: Memory, least: int) -> None:
        """least: tokens of the shortest prefix to speak of."""
        self._memory = memory
        self._least = least
        self._asked: tuple[int, I32] | None = None  # the memory's version, and the rows
        self._answer = Arranged(np.empty(0, np.int32), ())

    def arrange(self, rows: I32) -> Arranged:
        """For decoding `rows`, distinct."""
        version = self._memory.version
        if self._asked is None or self._asked[0] != version or not np.array_equal(self._asked[1], rows):
            self._asked = version, rows
            self._answer = self._arrange(rows)
        return self._answer

    def _arrange(self, rows: I32) -> Arranged:
        groups = self._groups(rows[self._memory.table.shared[rows] >= self._least].tolist())
        saved = sum(tokens * (len(members) - 1) for tokens, members in groups)
        if saved < _WORTH * self._least:
            return Arranged(rows, ())
        runs: list[SharedRun] = []
        order: list[int] = []
        for tokens, members in groups:
            runs.append(SharedRun(len(order), len(members), tokens))
            order += members
        together = np.array(order, np.int32)
        return Arranged(np.concatenate((together, rows[~np.isin(rows, together)])), tuple(runs))

    def _groups(self, rows: list[int]) -> list[tuple[int, list[int]]]:
        """(tokens, rows) of each group, disjoint, two rows or more."""
        below: dict[int, tuple[int, list[int]]] = {}  # by node: tokens up to its end, rows below it
        for row in rows:
            for serial, end in self._shared_nodes(self._memory.table.at(row)):
                below.setdefault(serial, (end, []))[1].append(row)
        best = sorted(below.values(), key=lambda each: each[0] * (1 - len(each[1])))
        taken: set[int] = set()
        groups = []
        for tokens, members in best:
            free = [row for row in members if row not in taken]
            if len(free) > 1:
                groups.append((tokens, free))
                taken.update(free)
        return groups

    def _shared_nodes(self, request: Request) -> list[tuple[int, int]]:
        """(serial, tokens up to its end) of the nodes that this request and another have pinned."""
        assert request.pin is not None, "running requests hold a pin"
        found, end = [], request.shared
        for node in request.pin.path():
            if end < self._least:
                break
            if node.pins > 1 and end <= request.same:
                found.append((node.serial, end))
            end -= len(node.tokens)
        return found
