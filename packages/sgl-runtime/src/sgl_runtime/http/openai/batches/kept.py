# SPDX-License-Identifier: Apache-2.0
"""What the store takes of a line, and keeps of a batch."""

from __future__ import annotations

import msgspec

from sgl_runtime.http.openai.batches.objects import NOTHING, Batch, BatchUsage


class Answer(msgspec.Struct, frozen=True):
    """Of one line of a batch."""

    line: int  # from 0
    text: bytes  # as it stands in a file, with its newline
    completed: bool  # else it failed
    usage: BatchUsage = NOTHING


class Sink(msgspec.Struct, frozen=True):
    """A file of answers."""

    id: str
    bytes: int = 0  # those that count


class Kept(msgspec.Struct, frozen=True):
    """A batch, and what clients do not see of it while it is under way."""

    batch: Batch
    output: Sink
    errors: Sink
    keep_s: int | None  # how long its files are kept

    @property
    def bytes(self) -> int:
        return self.output.bytes + self.errors.bytes
