# SPDX-License-Identifier: Apache-2.0
"""Whatever happens between answers, a batch's files hold what was recorded: every line once, whole."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sgl_runtime.errors import NotFound
from sgl_runtime.http.openai.batches.kept import Answer
from sgl_runtime.http.openai.batches.objects import (
    BatchBody,
    BatchQuery,
    BatchUsage,
    File,
    FileFields,
    FileQuery,
)
from sgl_runtime.http.openai.batches.store import Store

T = TypeVar("T")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def add_file(store: Store, content: bytes = b"{}\n", seconds: int = 3600) -> File:
    upload = store.new_upload()
    upload.write_bytes(content)
    return store.add_file(upload, "../name", FileFields("batch", seconds=seconds))


def fail_after(calls: int) -> Callable[[int], None]:
    """An fsync that fails the n-th time, from 0."""
    left = [calls]
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if left[0] == 0:
            raise FULL
        left[0] -= 1
        fsync(descriptor)

    return failing


class Machine(RuleBasedStateMachine):
    """One batch, whose store is closed, killed, or has no room in between."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.place = self.folder / str(len(list(self.folder.iterdir())))
        self.store = Store(self.place)
        self.answered: dict[int, Answer] = {}
        self.next = 0

    @initialize()
    def begin(self) -> None:
        file = add_file(self.store)
        self.batch = self.store.add_batch(BatchBody(file.id, "/v1/completions", "24h")).id
        self.store.begin(self.batch, 1000, "tiny")

    def answers(self, kinds: list[bool]) -> list[Answer]:
        made = []
        for completed in kinds:
            text = b"%d %s\n" % (self.next, b"x" * (self.next % 7 * 100))
            usage = BatchUsage(input_tokens=self.next, total_tokens=self.next)
            made.append(Answer(self.next, text, completed, usage))
            self.next += 1
        return made

    @rule(kinds=st.lists(st.booleans(), min_size=1, max_size=5))
    def record(self, kinds: list[bool]) -> None:
        answers = self.answers(kinds)
        self.store.record(self.batch, answers)
        self.answered |= {answer.line: answer for answer in answers}

    @rule(kinds=st.lists(st.booleans(), min_size=1, max_size=5), calls=st.integers(0, 1))
    def record_on_a_full_disk_and_again(self, kinds: list[bool], calls: int) -> None:
        answers = self.answers(kinds)
        with mock.patch("os.fsync", fail_after(calls)):
            try:
                self.store.record(self.batch, answers)
            except OSError:
                assert self.store.answered(self.batch) == self.answered.keys()
            else:
                self.answered |= {answer.line: answer for answer in answers}
                return
        self.store.record(self.batch, answers)
        self.answered |= {answer.line: answer for answer in answers}

    @rule(kinds=st.lists(st.booleans(), min_size=1, max_size=5))
    def record_when_the_database_has_no_room(self, kinds: list[bool]) -> None:
        answers = self.answers(kinds)
        (pages,) = self.store._db.execute("PRAGMA page_count").fetchone()
        self.store._db.execute(f"PRAGMA max_page_count = {pages}")
        try:
            self.store.record(self.batch, answers)
        except sqlite3.OperationalError:
            assert self.store.answered(self.batch) == self.answered.keys()
        else:
            self.answered |= {answer.line: answer for answer in answers}
        finally:
            self.store._db.execute("PRAGMA max_page_count = 1000000")

    @rule(data=st.data())
    def record_what_is_recorded(self, data: st.DataObject) -> None:
        """A mistake of ours undoes what it came with, and no more."""
        if self.answered:
            known = self.answered[data.draw(st.sampled_from(sorted(self.answered)))]
            with pytest.raises(sqlite3.IntegrityError):
                self.store.record(self.batch, [*self.answers([True]), known])

    @rule(noise=st.binary(max_size=300))
    def crash(self, noise: bytes) -> None:
        """What was not counted lies behind what was."""
        self.store.close()
        for path in (self.place / "files").iterdir():
            if b"{}" not in path.read_bytes()[:2]:
                with path.open("ab") as file:
                    file.write(noise)
        (self.place / "files/file-stray").write_bytes(noise)
        self.store = Store(self.place)

    @invariant()
    def counts(self) -> None:
        counts = self.store.batch(self.batch).request_counts
        completed = sum(answer.completed for answer in self.answered.values())
        assert (counts.completed, counts.failed) == (completed, len(self.answered) - completed)
        assert self.store.answered(self.batch) == self.answered.keys()
        usage = self.store.batch(self.batch).usage
        assert usage == BatchUsage(input_tokens=sum(self.answered), total_tokens=sum(self.answered))
        text = sum(len(answer.text) for answer in self.answered.values())
        assert self.store.tally.bytes == len(b"{}\n") + text
        assert self.store.tally.open == {"validating": 0, "in_progress": 1, "cancelling": 0}

    def teardown(self) -> None:
        self.store.finish(self.batch, "completed")
        batch = self.store.batch(self.batch)
        for completed, file in ((True, batch.output_file_id), (False, batch.error_file_id)):
            expected = b"".join(a.text for a in self.answered.values() if a.completed is completed)
            assert (b"" if file is None else self.store.path(file).read_bytes()) == expected
            assert file is None or self.store.file(file).bytes == len(expected)
        tally = self.store.tally
        assert (sum(tally.open.values()), tally.ended["completed"]) == (0, 1)
        self.store.close()
        again = Store(self.place)
        assert again.tally.bytes == tally.bytes
        again.close()
        named = {batch.input_file_id, batch.output_file_id, batch.error_file_id} - {None}
        assert {path.name for path in (self.place / "files").iterdir()} == named


def test_every_answer_once_and_whole(tmp_path: Path) -> None:
    machine = type("Machine", (Machine,), {"folder": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_file_that_cannot_be_entered_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for _ in range(1000):
            add_file(store)
    store._db.execute("PRAGMA max_page_count = 1000000")
    files, _ = store.files(FileQuery())
    assert {path.name for path in (tmp_path / "files").iterdir()} == {file.id for file in files}
    store.close()


def test_files_expire_unless_a_batch_reads_them(tmp_path: Path) -> None:
    now = [1000.0]
    store = Store(tmp_path, clock=lambda: now[0])
    read, unread = add_file(store), add_file(store)
    batch = store.add_batch(BatchBody(read.id, "/v1/completions", "7d"))
    store.begin(batch.id, 1, None)
    now[0] += 3600
    for id in (read.id, unread.id):
        with pytest.raises(NotFound):
            store.file(id)
    assert store.files(FileQuery()) == ([], False)
    store.expire_files()
    assert store.path(read.id).exists() and not store.path(unread.id).exists()
    store.record(batch.id, [Answer(0, b"{}\n", True)])
    store.finish(batch.id, "completed")
    store.expire_files()
    assert not store.path(read.id).exists()
    assert [batch.status for batch in store.batches(BatchQuery())[0]] == ["completed"]
    assert store.tally.bytes == len(b"{}\n"), "the answers alone are left"
    store.close()
