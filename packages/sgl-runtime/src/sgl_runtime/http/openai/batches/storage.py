# SPDX-License-Identifier: Apache-2.0
"""`Storage`: the store as the event loop may use it, on a thread of its own, opened when first needed.

Turns what a disk may say into StorageFailed, and rings a bell for who carries batches out.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sgl_runtime.errors import ConfigError, InvalidRequest, StorageFailed
from sgl_runtime.http.openai.batches.store import Store
from sgl_runtime.http.openai.batches.tally import Tally

P = ParamSpec("P")
T = TypeVar("T")


class Storage:
    def __init__(self, folder: str, *, alone: bool = True) -> None:
        """Touches no disk. Raises ConfigError for a folder that is a file. `alone`: no other api process is;
        else nothing is kept, for a store has one owner.
        """
        self._alone = alone
        self.changed = asyncio.Event()  # a batch has come or is to end
        self._folder = Path(folder)
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="storage")
        if self._folder.exists() and not self._folder.is_dir():
            raise ConfigError(f"--file-storage-path {folder} is no folder")

    @property
    def tally(self) -> Tally:
        """Of what is kept; all zeros before anything was looked at."""
        return Tally() if self._store is None else self._store.tally

    @property
    def used(self) -> bool:
        """Whether anything was ever kept here."""
        return self._alone and self._folder.exists()

    async def do(
        self, method: Callable[Concatenate[Store, P], T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """`method` of the store. Raises what it raises, StorageFailed where the disk is at fault, and
        InvalidRequest where nothing is kept.
        """
        self._check_alone()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, lambda: self._do(lambda s: method(s, *arguments, **named))
        )

    async def write(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Other work with the disk, on any thread. Raises StorageFailed, too."""
        self._check_alone()
        return await asyncio.to_thread(self._guarded, lambda: work(*arguments, **named))

    async def close(self) -> None:
        """Once what was begun has ended."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _check_alone(self) -> None:
        if not self._alone:
            raise InvalidRequest("files and batches are kept by one process: start without --http-workers")

    def _do(self, work: Callable[[Store], T]) -> T:
        def opened() -> T:
            if self._store is None:
                self._store = Store(self._folder)
            return work(self._store)

        return self._guarded(opened)

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):  # mistakes of ours
                raise
            raise self._failed(str(error)) from error

    def _failed(self, why: str) -> StorageFailed:
        return StorageFailed(
            f"nothing can be kept in {self._folder} (--file-storage-path) now: {why}; what was kept is safe"
        )

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
