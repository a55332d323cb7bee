# SPDX-License-Identifier: Apache-2.0
"""`Table`: the running requests as columns, indexed by page-table row.

A decode step touches every running request, so what it needs of them stands in numpy arrays: it is planned
with a few fancy-indexing operations, whatever the number of rows. The two numbers of the one rule are
`computed` and `length`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgl_runtime.messages import I32
from sgl_runtime.scheduler.request import Request

_NOBODY = -1


class Due(NamedTuple):
    """Of rows that have a token more, [m] each."""

    generated: I32  # output tokens with it
    looks: NDArray[np.bool_]  # it may be the last one, or has to be looked at alone for another reason
    speaks: NDArray[np.bool_]  # the request's sender is to be told


class Table:
    """One entry of every column per row; meaningless where `owner` is negative.

    computed <= known <= length, where the passes in flight count as done:
    known      tokens whose value has reached the scheduler; the others are in flight
    length     tokens of prompt and output
    end        tokens that will ever be computed: all but the last token of the longest possible output
    """

    def __init__(self, rows: int, width: int) -> None:
        """`width`: most tokens of one row. What is never touched of `slots` and `output` costs addresses, not
        memory."""
        self.requests: list[Request | None] = [None] * rows
        # Distinct for every entry of a request into a row, and for every edit: what is in flight for another
        # owner than the row's is void.
        self.owner = np.full(rows, _NOBODY, np.int64)
        self.slots = np.zeros((rows, width), np.int32)
        self.caught_up = np.zeros(rows, np.bool_)  # computes what it samples, or jumps over, from now on
        self.computed = np.zeros(rows, np.int32)
        self.known = np.zeros(rows, np.int32)
        self.length = np.zeros(rows, np.int32)
        self.end = np.zeros(rows, np.int32)
        self.prompt = np.zeros(rows, np.int32)  # tokens of the prompt
        self.last = np.zeros(rows, np.int32)  # the token at known - 1, once it has been sampled in this row
        self.borrowed = np.zeros(rows, np.int32)  # tokens found in the prefix cache on entry
        self.limit = np.zeros(rows, np.int32)  # most output tokens
        self.certain = np.zeros(rows, np.int32)  # as Request.certain
        self.temperature = np.zeros(rows, np.float32)
        self.top_p = np.zeros(rows, np.float32)
        self.top_k = np.zeros(rows, np.int32)
        self.min_p = np.zeros(rows, np.float32)
        self.frequency_penalty = np.zeros(rows, np.float32)
        self.presence_penalty = np.zeros(rows, np.float32)
        self.repetition_penalty = np.zeros(rows, np.float32)
        self.seed = np.zeros(rows, np.int64)
        self.top = np.zeros(rows, np.int32)
        self.biased = np.zeros(rows, np.bool_)
        # Sampled tokens by their number in the output, from where the request's own list ends: see `sync`.
        self.output = np.zeros((rows, width), np.int32)
        self.speaks = np.zeros(rows, np.int32)  # with so many output tokens its sender is to be told
        self.every = np.zeros(rows, np.int32)  # as Request.every
        self.at_eos = np.zeros(rows, np.bool_)  # as Stop.at_eos
        self.watched = np.zeros(rows, np.bool_)  # as Request.watched
        self.shared = np.zeros(rows, np.int32)  # as Request.shared
        self.constrained = np.zeros(rows, np.bool_)
        self._entries = 0

    def enter(self, request: Request, row: int, prefix: I32) -> None:
        """`prefix`: slots of the tokens that are already computed, [cached]."""
        sampling = request.sampling
        self._entries += 1
        self.requests[row] = request
        self.owner[row] = self._entries
        self.slots[row, : len(prefix)] = prefix
        self.caught_up[row] = False
        self.computed[row] = self.borrowed[row] = len(prefix)
        self.known[row] = self.length[row] = request.known
        self.prompt[row] = len(request.prompt)
        limit = request.stop.limit
        # The last token of an output is never computed. Without sampling the whole prompt is.
        self.end[row] = len(request.prompt) + max(limit, 1) - 1
        self.limit[row] = limit
        self.certain[row] = request.certain
        self.temperature[row] = sampling.temperature
        self.top_p[row] = sampling.top_p
        self.top_k[row] = sampling.top_k
        self.min_p[row] = sampling.min_p
        self.frequency_penalty[row] = sampling.frequency_penalty
        self.presence_penalty[row] = sampling.presence_penalty
        self.repetition_penalty[row] = sampling.repetition_penalty
        self.seed[row] = sampling.seed
        self.top[row] = request.top
        self.biased[row] = bool(request.bias)
        self.at_eos[row] = request.stop.at_eos
        self.watched[row] = request.watched
        self.every[row] = request.every
        self.speaks[row] = request.told + request.every if request.told else 1
        self.constrained[row] = request.constrained is not None

    def extend(self, request: Request) -> None:
        """Tokens that no pass has sampled stand at the end of a running request's output."""
        row = request.row
        self._entries += 1
        self.owner[row] = self._entries
        self.known[row] = self.length[row] = request.known
        self.last[row] = request.output[-1]

    def leave(self, row: int) -> None:
        self.requests[row] = None
        self.owner[row] = _NOBODY
        self.caught_up[row] = False

    def at(self, row: int) -> Request:
        """The request in a row that has one."""
        request = self.requests[row]
        assert request is not None, "asked for rows with an owner"
        return request

    def running(self) -> list[Request]:
        return [request for request in self.requests if request is not None]

    def decoding(self) -> I32:
        """Rows, ascending, that have caught up and have a token to compute now, or some after a jump."""
        behind = self.computed < np.minimum(self.length, self.end)
        return np.flatnonzero(behind & self.caught_up).astype(np.int32)

    def demand(self, steps: int) -> int:
        """Slots that the requests that have caught up will take within so many steps, if none ends early."""
        return int(np.minimum(self.end - self.computed, steps)[self.caught_up].sum())

    def need(self, row: int) -> int:
        """The one rule: how far `computed` is behind."""
        return int(min(self.length[row], self.end[row]) - self.computed[row])

    def needs(self, rows: I32) -> I32:
        """The same of several rows, [n]."""
        return np.minimum(self.length[rows], self.end[rows]) - self.computed[rows]

    def append(self, rows: I32, tokens: I32) -> None:
        """The sampled tokens of these rows have arrived. [m] each."""
        known = self.known[rows]
        self.output[rows, known - self.prompt[rows]] = tokens
        self.known[rows] = known + 1
        self.last[rows] = tokens

    def due(self, rows: I32, tokens: I32, eos: I32) -> Due:
        """What is to be done about rows to which these tokens were appended, [m]. eos: the model's tokens."""
        generated = self.known[rows] - self.prompt[rows]
        looks = self.watched[rows] | (generated >= self.limit[rows])
        if self.at_eos[rows].any():
            looks |= self.at_eos[rows] & (tokens[:, None] == eos).any(axis=1)
        speaks = generated >= self.speaks[rows]
        self.speaks[rows[speaks]] = (generated + self.every[rows])[speaks]
        return Due(generated, looks, speaks)

    def receive(self, request: Request, token: int, generated: int) -> None:
        """As `sync`, where the last of `generated` tokens is known, and most often no other is missing."""
        if len(request.output) == generated - 1:
            request.output.append(token)
        else:
            self.sync(request)

    def sync(self, request: Request) -> None:
        """Bring the output of a running request up to date."""
        row, so_far = request.row, len(request.output)
        generated = int(self.known[row] - self.prompt[row])
        if generated > so_far:
            request.output += self.output[row, so_far:generated].tolist()
