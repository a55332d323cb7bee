# SPDX-License-Identifier: Apache-2.0
"""`Store`: files and batches in one folder, and a database that says which of its bytes count.

    SGLang_storage/
        store.sqlite3       files, batches, and which lines of a batch are answered
        files/<id>          contents; whatever the database does not know is removed at the start
        uploads/            what is still arriving

The answers of a batch are appended to its two files first and counted by the database afterwards, so what
lies beyond the count (after a crash, on a full disk) is cut off, and a line is answered in the files exactly
if it is in the database. Paths are made of ids, and ids are made here. Every method blocks; all belong to one
thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import msgspec

from sgl_runtime.errors import Conflict, InvalidRequest, NotFound
from sgl_runtime.http.openai.batches.contents import Contents
from sgl_runtime.http.openai.batches.database import Database
from sgl_runtime.http.openai.batches.kept import Answer, Kept, Sink
from sgl_runtime.http.openai.batches.objects import (
    OPEN,
    Batch,
    BatchBody,
    BatchError,
    BatchErrors,
    BatchQuery,
    Counts,
    File,
    FileFields,
    FileQuery,
    Status,
)
from sgl_runtime.http.openai.batches.tally import Tally


class Store:
    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Make the folder, or take up what is in it. Raises StorageFailed if another server uses it, OSError
        or sqlite3.DatabaseError if it cannot be used.
        """
        self._clock = clock
        self._contents = Contents(folder)
        self._db = Database(folder)
        try:
            self.tally = Tally()
            self._contents.remove_strays(self._found())
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    # -- files

    def new_upload(self) -> Path:
        """Where a file may be written on its way in."""
        return self._contents.new_upload()

    def add_file(self, upload: Path, filename: str, fields: FileFields, *, most: int | None = None) -> File:
        """Take what lies at `upload`, which must be on the disk by now. Raises TooLarge beyond `most` bytes
        of all files.
        """
        now, size = int(self._clock()), upload.stat().st_size
        self.tally.check_room(size, most)
        file = File(
            id=_new_id("file"),
            bytes=size,
            created_at=now,
            expires_at=now + fields.seconds,
            filename=filename,
            purpose=fields.purpose,
        )
        try:
            self._contents.take(upload, file.id)
            with self._db.transaction():
                self._insert_file(file)
        except BaseException:
            self._contents.remove(file.id)
            raise
        self.tally.bytes += size
        return file

    def file(self, id: str) -> File:
        """Raises NotFound."""
        found = self._db.execute(
            "SELECT record FROM files WHERE id = ? AND (expires_at IS NULL OR expires_at > ?)",
            (id, self._clock()),
        ).fetchone()
        if found is None:
            raise NotFound(
                f"file_id: there is no file {id[:100]!r}: it was deleted, has expired, or never was",
                param="file_id",
            )
        return msgspec.json.decode(found[0], type=File)

    def files(self, query: FileQuery) -> tuple[list[File], bool]:
        """A page, and whether there are more. Raises InvalidRequest for an `after` that is not there."""
        records, more = self._db.page(
            "files",
            "(expires_at IS NULL OR expires_at > ?) AND (? IS NULL OR purpose = ?)",
            (self._clock(), query.purpose, query.purpose),
            after=query.after,
            order=query.order,
            limit=query.limit,
        )
        return [msgspec.json.decode(record, type=File) for record in records], more

    def path(self, id: str) -> Path:
        """Where the content of a file lies, or of a batch's input."""
        return self._contents.path(id)

    def delete_file(self, id: str) -> None:
        """Raises NotFound, and Conflict while a batch reads it."""
        file = self.file(id)
        reader = self._db.execute("SELECT id FROM batches WHERE open AND input = ?", (id,)).fetchone()
        if reader is not None:
            raise Conflict(
                f"file_id: {id!r} is the input of {reader[0]!r}, which is under way: cancel that first",
                param="file_id",
            )
        self._remove_files([file])

    def expire_files(self) -> None:
        """Remove those whose time is up, unless a batch reads them."""
        found = self._db.execute(
            "SELECT record FROM files WHERE expires_at <= ? AND id NOT IN"
            " (SELECT input FROM batches WHERE open)",
            (self._clock(),),
        )
        self._remove_files([msgspec.json.decode(record, type=File) for (record,) in found])

    # -- batches

    def add_batch(self, body: BatchBody, *, most: int | None = None) -> Batch:
        """Raises NotFound and InvalidRequest for an input that is none, TooMany beyond `most`."""
        self.tally.check_queue(most)
        try:
            purpose = self.file(body.input_file_id).purpose
        except NotFound as error:
            raise NotFound(
                error.message.replace("file_id", "input_file_id", 1), param="input_file_id"
            ) from None
        if purpose != "batch":
            raise InvalidRequest(
                f"input_file_id: a file of purpose 'batch' is expected, this one's is {purpose!r}",
                param="input_file_id",
            )
        now = int(self._clock())
        batch = Batch(
            id=_new_id("batch"),
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            completion_window=body.completion_window,
            created_at=now,
            expires_at=now + body.window,
            metadata=body.metadata,
        )
        keep = None if body.output_expires_after is None else body.output_expires_after.seconds
        kept = Kept(batch, Sink(_new_id("file")), Sink(_new_id("file")), keep)
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO batches (id, open, input, record) VALUES (?, 1, ?, ?)",
                (batch.id, batch.input_file_id, msgspec.json.encode(kept)),
            )
        self.tally.came(batch)
        return batch

    def batch(self, id: str) -> Batch:
        """Raises NotFound."""
        return self._kept(id).batch

    def batches(self, query: BatchQuery) -> tuple[list[Batch], bool]:
        """A page, and whether there are more. Raises InvalidRequest for an `after` that is not there."""
        records, more = self._db.page("batches", "1", (), after=query.after, order="desc", limit=query.limit)
        return [msgspec.json.decode(record, type=Kept).batch for record in records], more

    def open_batches(self) -> list[Batch]:
        """Those with work to do, the oldest first."""
        found = self._db.execute("SELECT record FROM batches WHERE open ORDER BY seq")
        return [msgspec.json.decode(record, type=Kept).batch for (record,) in found]

    def begin(self, id: str, total: int, model: str | None) -> Batch:
        """It has so many lines, all for that model, and the first may be computed now; again after a
        restart.
        """
        kept = self._kept(id)
        batch = kept.batch
        counts = msgspec.structs.replace(batch.request_counts, total=total)
        batch = msgspec.structs.replace(batch, request_counts=counts, model=model)
        if batch.status == "validating":
            batch = msgspec.structs.replace(batch, status="in_progress", in_progress_at=int(self._clock()))
        return self._put(kept, batch)

    def fail(self, id: str, error: BatchError) -> None:
        """None of it can be computed."""
        kept = self._kept(id)
        batch = msgspec.structs.replace(
            kept.batch, status="failed", failed_at=int(self._clock()), errors=BatchErrors([error])
        )
        self._put(kept, batch)

    def answered(self, id: str) -> set[int]:
        """The lines that need no answer any more."""
        return {line for (line,) in self._db.execute("SELECT line FROM answered WHERE batch = ?", (id,))}

    def record(self, id: str, answers: Sequence[Answer]) -> None:
        """Keep answers of lines that have none. All of them or, if it raises, none."""
        kept = self._kept(id)
        completed = [answer for answer in answers if answer.completed]
        failed = [answer for answer in answers if not answer.completed]
        counts, usage = kept.batch.request_counts, kept.batch.usage
        counts = Counts(counts.total, counts.completed + len(completed), counts.failed + len(failed))
        for answer in answers:
            usage = usage.plus(answer.usage)
        after = msgspec.structs.replace(
            kept,
            batch=msgspec.structs.replace(kept.batch, request_counts=counts, usage=usage),
            output=self._append(kept.output, completed),
            errors=self._append(kept.errors, failed),
        )
        with self._db.transaction():
            self._db.executemany(
                "INSERT INTO answered VALUES (?, ?)", [(id, answer.line) for answer in answers]
            )
            self._update(after)
        self.tally.went_on(kept.batch, after.batch)
        self.tally.bytes += after.bytes - kept.bytes

    def cancel(self, id: str) -> Batch:
        """Have it end soon. Raises NotFound, and Conflict if it has ended."""
        kept = self._kept(id)
        batch = kept.batch
        if batch.status not in OPEN:
            raise Conflict(f"batch_id: {id!r} has ended, it is {batch.status}", param="batch_id")
        if batch.status == "cancelling":
            return batch
        batch = msgspec.structs.replace(batch, status="cancelling", cancelling_at=int(self._clock()))
        return self._put(kept, batch)

    def finish(self, id: str, status: Status) -> None:
        """Every line is answered: `status` is how that came, "completed", "cancelled" or "expired". Its files
        are files from now on, those of no line excepted.
        """
        kept = self._kept(id)
        now = int(self._clock())
        expires = None if kept.keep_s is None else now + kept.keep_s
        sinks = {"output": kept.output, "errors": kept.errors}
        files = {
            name: File(
                id=sink.id,
                bytes=sink.bytes,
                created_at=now,
                expires_at=expires,
                filename=f"{id}_{name}.jsonl",
                purpose="batch_output",
            )
            for name, sink in sinks.items()
            if sink.bytes
        }
        batch = msgspec.structs.replace(
            kept.batch,
            status=status,
            finalizing_at=now,
            output_file_id=files["output"].id if "output" in files else None,
            error_file_id=files["errors"].id if "errors" in files else None,
            **{f"{status}_at": now},
        )
        for file in files.values():
            self._contents.cut(file.id, file.bytes)
        with self._db.transaction():
            for file in files.values():
                self._insert_file(file)
            self._db.execute("DELETE FROM answered WHERE batch = ?", (id,))
            self._update(msgspec.structs.replace(kept, batch=batch))
        self.tally.went_on(kept.batch, batch)

    # -- inside

    def _found(self) -> set[str]:
        """The ids of all contents that count; the tally counts them."""
        known: set[str] = set()
        for (record,) in self._db.execute("SELECT record FROM files"):
            file = msgspec.json.decode(record, type=File)
            known.add(file.id)
            self.tally.bytes += file.bytes
        for (record,) in self._db.execute("SELECT record FROM batches WHERE open"):
            kept = msgspec.json.decode(record, type=Kept)
            known |= {kept.output.id, kept.errors.id}
            self.tally.bytes += kept.bytes
            self.tally.came(kept.batch)
        return known

    def _insert_file(self, file: File) -> None:
        self._db.execute(
            "INSERT INTO files (id, purpose, expires_at, record) VALUES (?, ?, ?, ?)",
            (file.id, file.purpose, file.expires_at, msgspec.json.encode(file)),
        )

    def _remove_files(self, files: Sequence[File]) -> None:
        """The record first: a content without one is a stray, a record without content would be a lie."""
        with self._db.transaction():
            self._db.executemany("DELETE FROM files WHERE id = ?", [(file.id,) for file in files])
        for file in files:
            self._contents.remove(file.id)
            self.tally.bytes -= file.bytes

    def _kept(self, id: str) -> Kept:
        found = self._db.execute("SELECT record FROM batches WHERE id = ?", (id,)).fetchone()
        if found is None:
            raise NotFound(f"batch_id: there is no batch {id[:100]!r}", param="batch_id")
        return msgspec.json.decode(found[0], type=Kept)

    def _put(self, kept: Kept, batch: Batch) -> Batch:
        """What is kept of a batch is what is kept, but for what clients see of it."""
        with self._db.transaction():
            self._update(msgspec.structs.replace(kept, batch=batch))
        self.tally.went_on(kept.batch, batch)
        return batch

    def _update(self, kept: Kept) -> None:
        self._db.execute(
            "UPDATE batches SET open = ?, record = ? WHERE id = ?",
            (kept.batch.status in OPEN, msgspec.json.encode(kept), kept.batch.id),
        )

    def _append(self, sink: Sink, answers: Sequence[Answer]) -> Sink:
        if not answers:
            return sink
        text = b"".join(answer.text for answer in answers)
        return Sink(sink.id, self._contents.append(sink.id, sink.bytes, text))


def _new_id(kind: str) -> str:
    return f"{kind}-{uuid4().hex}" if kind == "file" else f"{kind}_{uuid4().hex}"
