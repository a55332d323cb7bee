# SPDX-License-Identifier: Apache-2.0
"""`Tally`: how many files, batches and lines there are and were, as plain numbers.

The store keeps it as it writes, so a look at it waits for no disk. What has ended counts since the start.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from sgl_runtime.errors import TooLarge, TooMany
from sgl_runtime.http.openai.batches.objects import OPEN, Batch, Status

ENDED: Final[tuple[Status, ...]] = ("completed", "failed", "expired", "cancelled")


class Tally(msgspec.Struct):
    bytes: int = 0  # of all files, and of answers that will be files
    open: dict[Status, int] = msgspec.field(default_factory=lambda: dict.fromkeys(OPEN, 0))
    ended: dict[Status, int] = msgspec.field(default_factory=lambda: dict.fromkeys(ENDED, 0))
    lines: dict[Literal["completed", "failed"], int] = msgspec.field(
        default_factory=lambda: {"completed": 0, "failed": 0}
    )

    def check_room(self, size: int, most: int | None) -> None:
        """Raises TooLarge if a file of that size makes more than `most` bytes of all."""
        if most is not None and self.bytes + size > most:
            raise TooLarge(
                f"file: its {size} bytes and the {self.bytes} of the files that are here are more than {most}"
                " (--max-file-storage): delete some",
                param="file",
            )

    def check_queue(self, most: int | None) -> None:
        """Raises TooMany if `most` batches have work to do already."""
        if most is not None and (queued := sum(self.open.values())) >= most:
            raise TooMany(
                f"{queued} batches are waiting or under way, of at most {most} (--max-queued-batches): wait"
                " until one has ended, or cancel one"
            )

    def came(self, batch: Batch) -> None:
        """Just made, or found at the start."""
        self.open[batch.status] += 1

    def went_on(self, before: Batch, after: Batch) -> None:
        """The same batch."""
        for kind in ("completed", "failed"):
            more = getattr(after.request_counts, kind) - getattr(before.request_counts, kind)
            self.lines[kind] += more
        if after.status != before.status:
            self.open[before.status] -= 1
            (self.open if after.status in OPEN else self.ended)[after.status] += 1
