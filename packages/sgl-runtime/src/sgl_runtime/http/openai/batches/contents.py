# SPDX-License-Identifier: Apache-2.0
"""`Contents`: the bytes of files, by id, in a folder. What of them counts, others know.

A path is made of an id, and an id is made by the server: no name that a client gives comes here.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from uuid import uuid4


class Contents:
    """Every method blocks and raises OSError. What has returned is on the disk."""

    def __init__(self, folder: Path) -> None:
        self._files = folder / "files"
        self._uploads = folder / "uploads"
        for part in (self._files, self._uploads):
            part.mkdir(parents=True, exist_ok=True)

    def path(self, id: str) -> Path:
        return self._files / id

    def new_upload(self) -> Path:
        """Where a file may be written on its way in."""
        return self._uploads / uuid4().hex

    def take(self, upload: Path, id: str) -> None:
        """What lies at `upload`, and is on the disk by now, is the content of `id`."""
        upload.rename(self.path(id))
        _sync_names(self._files)

    def append(self, id: str, size: int, text: bytes) -> int:
        """Put `text` behind the first `size` bytes, in the place of whatever lies there; return the new
        size.
        """
        self.cut(id, size)
        with self.path(id).open("ab") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if size == 0:
            _sync_names(self._files)
        return size + len(text)

    def cut(self, id: str, size: int) -> None:
        """Keep the first `size` bytes."""
        path = self.path(id)
        if (path.stat().st_size if path.exists() else 0) > size:
            os.truncate(path, size)

    def remove(self, id: str) -> None:
        self.path(id).unlink(missing_ok=True)

    def remove_strays(self, known: Collection[str]) -> None:
        """What a crash has left: uploads, and contents of ids that are not known."""
        strays = [path for path in self._files.iterdir() if path.name not in known]
        for stray in [*self._uploads.iterdir(), *strays]:
            stray.unlink()


def _sync_names(folder: Path) -> None:
    """Have the names of what is in it on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
