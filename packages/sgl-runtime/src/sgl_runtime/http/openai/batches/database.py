# SPDX-License-Identifier: Apache-2.0
"""`Database`: SQLite as the store uses it: one server at a time, and what is committed is on the disk.

Knows the tables, but not what is in their records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgl_runtime.errors import InvalidRequest, StorageFailed

_VERSION = 1
_SCHEMA = f"""
CREATE TABLE files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, purpose TEXT NOT NULL, expires_at INTEGER,
    record BLOB NOT NULL
);
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, open INTEGER NOT NULL,
    input TEXT NOT NULL, record BLOB NOT NULL
);
CREATE INDEX open_batches ON batches (input) WHERE open;
CREATE TABLE answered (batch TEXT NOT NULL, line INTEGER NOT NULL, PRIMARY KEY (batch, line)) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""


class Database:
    """`execute` and `executemany` are sqlite3's; outside of a transaction each is one."""

    def __init__(self, folder: Path) -> None:
        """Raises StorageFailed if another server uses it, sqlite3.DatabaseError if it cannot be used."""
        self._db = sqlite3.connect(folder / "store.sqlite3", timeout=0, isolation_level=None)
        self.execute, self.executemany = self._db.execute, self._db.executemany
        try:
            self._lock(folder)
            self._make_tables(folder)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is executed in it, or nothing."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk may have ended it
                self.execute("ROLLBACK")
            raise

    def page(
        self, table: str, where: str, values: Sequence[object], *, after: str | None, order: str, limit: int
    ) -> tuple[list[bytes], bool]:
        """The records `where` something holds, in the order in which they were made, behind that of the id
        `after`; and whether there are more. Raises InvalidRequest for an `after` that is not there.
        """
        place: tuple[Any, ...] = ()
        if after is not None:
            found = self.execute(f"SELECT seq FROM {table} WHERE id = ?", (after,)).fetchone()
            if found is None:
                raise InvalidRequest(f"after: there is no {after[:100]!r} in this list", param="after")
            where += " AND seq > ?" if order == "asc" else " AND seq < ?"
            place = found
        rows = self.execute(
            f"SELECT record FROM {table} WHERE {where} ORDER BY seq {order} LIMIT ?",
            (*values, *place, limit + 1),
        ).fetchall()
        return [record for (record,) in rows[:limit]], len(rows) > limit

    def _lock(self, folder: Path) -> None:
        """The lock of a database that is opened exclusively is the lock of the folder."""
        try:
            self.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.execute("PRAGMA journal_mode = WAL")
            self.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise StorageFailed(
                f"another server uses {folder}: start this one with a --file-storage-path of its own"
            ) from None
        self.execute("COMMIT")
        self.execute("PRAGMA synchronous = FULL")

    def _make_tables(self, folder: Path) -> None:
        (version,) = self.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version != _VERSION:
            raise StorageFailed(
                f"{folder} is of another version of this server: choose another --file-storage-path"
            )
