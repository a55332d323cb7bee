# SPDX-License-Identifier: Apache-2.0
"""A loop that stands still is noticed, with its stacks; one that turns or sleeps is left alone."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sgl_runtime.errors import EngineDied
from sgl_runtime.process import Child, Program, supervise
from sgl_runtime.replica.watchdog import Watchdog


def test_a_loop_that_stands_still() -> None:
    stories: list[str] = []
    told = threading.Event()

    def hung(story: str) -> None:
        stories.append(story)
        told.set()

    dog = Watchdog(lambda: 7, seconds=0.05, hung=hung)
    dog.start()
    assert told.wait(10)
    dog.stop()
    (story,) = stories
    assert "told.wait(10)" in story  # where this thread stands
    assert "a step has not ended within 0.05 s" in story.splitlines()[-1]


@pytest.mark.parametrize("turns", [itertools.count().__next__, lambda: None])
def test_a_loop_that_turns_or_sleeps(turns: Callable[[], int | None]) -> None:
    told = threading.Event()
    dog = Watchdog(turns, seconds=0.05, hung=lambda story: told.set())
    dog.start()
    assert not told.wait(0.3)
    dog.stop()


CHILD = """
import threading
from functools import partial
from sgl_runtime.messages import Ready
from sgl_runtime.replica.watchdog import Watchdog, end

def hang(pipe):
    Watchdog(lambda: 7, seconds=0.1, hung=partial(end, pipe)).start()
    pipe.ready(Ready())
    threading.Event().wait()
"""


def test_a_process_that_hangs_ends_and_its_launcher_knows_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hanging_child.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    child = Child(Program("replica0", "hanging_child:hang", {}, drains=False))
    child.wait_ready([child])
    cause = supervise([child])
    child.finish(0.0)
    assert isinstance(cause, EngineDied)
    assert "replica0 died: a step has not ended within 0.1 s" in cause.message.splitlines()[0]
    assert "in hang" in cause.message
