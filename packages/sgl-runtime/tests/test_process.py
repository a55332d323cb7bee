# SPDX-License-Identifier: Apache-2.0
"""Children say Ready or why not; a death is told with its own traceback; nobody outlives the launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgl_runtime.errors import ConfigError, EngineDied
from sgl_runtime.messages import Capacity, Ready
from sgl_runtime.process import Child, ChildPipe, Program, stop, supervise

CAPACITY = Capacity(slots=1, rows=1, context_length=1, vocab_size=1)
ENTRIES = """
import signal, time
from pathlib import Path
from sgl_runtime.errors import ConfigError
from sgl_runtime.messages import Capacity, Ready

def ready_then_wait(pipe):
    pipe.ready(Ready(Capacity(1, 1, 1, 1), {"import": 0.5}))
    pipe.receive()

def refuses(pipe):
    raise ConfigError("the model does not fit")

def breaks(pipe):
    pipe.ready(Ready())
    raise ZeroDivisionError("at the third step")

def ends(pipe):
    pass

def tells_late(pipe):
    pipe.ready(Ready())
    pipe.receive()  # until a brother has ended
    time.sleep(0.1)
    raise ValueError("the cause")

def announces_itself(pipe, path):
    import os
    Path(path).write_text(str(os.getpid()))
    pipe.ready(Ready())
    time.sleep(600)
"""


@pytest.fixture
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "child_entries.py").write_text(ENTRIES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of a launcher in a process of its own
    monkeypatch.syspath_prepend(tmp_path)
    return "child_entries"


@pytest.fixture
def family() -> Iterator[list[Child]]:
    children: list[Child] = []
    yield children
    stop(children, seconds=5)


def start(family: list[Child], entry: str, **kwargs: object) -> Child:
    family.append(Child(Program(entry.partition(":")[2], entry, kwargs)))
    return family[-1]


def test_ready_carries_the_capacity(entries: str, family: list[Child]) -> None:
    child = start(family, f"{entries}:ready_then_wait")
    assert child.wait_ready(family) == Ready(CAPACITY, {"import": 0.5})


def test_a_config_error_of_a_child_is_one_sentence(entries: str, family: list[Child]) -> None:
    child = start(family, f"{entries}:refuses")
    with pytest.raises(ConfigError, match=r"^the model does not fit$"):
        child.wait_ready(family)


def test_waiting_for_one_child_notices_the_death_of_another(entries: str, family: list[Child]) -> None:
    waiting = start(family, f"{entries}:ready_then_wait")
    assert waiting.wait_ready(family)
    start(family, f"{entries}:ends")
    with pytest.raises(EngineDied, match="ends exited with 0"):
        waiting.wait_ready(family)


def test_an_exception_after_ready_arrives_with_its_traceback(entries: str, family: list[Child]) -> None:
    child = start(family, f"{entries}:breaks")
    child.wait_ready(family)
    reason = supervise(family)
    assert isinstance(reason, EngineDied)
    assert "in breaks" in reason.message and "ZeroDivisionError: at the third step" in reason.message


def test_the_cause_is_told_even_if_its_victim_ends_first(entries: str, family: list[Child]) -> None:
    cause = start(family, f"{entries}:tells_late")
    cause.wait_ready(family)
    victim = start(family, f"{entries}:ends")
    cause.send(b"now")
    reason = supervise([victim, cause])
    assert "ValueError: the cause" in str(reason)


def test_a_child_that_does_not_drain_ignores_sigterm(entries: str, family: list[Child]) -> None:
    child = Child(Program("steady", f"{entries}:tells_late", {}, drains=False))
    family.append(child)
    child.wait_ready(family)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGTERM)
    child.send(b"now")
    assert "ValueError: the cause" in str(supervise(family))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_child_is_told_from_one_that_ended(
    entries: str, family: list[Child], number: signal.Signals
) -> None:
    child = start(family, f"{entries}:ready_then_wait")
    child.wait_ready(family)
    assert child.pid is not None
    os.kill(child.pid, number)
    reason = supervise(family)
    assert number.name in str(reason) and "ready_then_wait" in str(reason)


def test_children_do_not_outlive_the_launcher(entries: str, tmp_path: Path) -> None:
    """The launcher is killed without a chance to clean up."""
    pid_file = tmp_path / "pid"
    launcher = (
        "from sgl_runtime.process import Child, Program\n"
        "import time\n"
        "if __name__ == '__main__':\n"
        f"    child = Child(Program('orphan', '{entries}:announces_itself', {{'path': {str(pid_file)!r}}}))\n"
        "    child.wait_ready([child])\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)\n"
    )
    script = tmp_path / "launcher.py"
    script.write_text(launcher)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.kill()
    orphan = int(pid_file.read_text())
    deadline = time.monotonic() + 10
    while alive(orphan) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(orphan)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_pipe_survives_a_launcher_that_is_gone() -> None:
    import multiprocessing

    ours, theirs = multiprocessing.Pipe()
    ours.close()
    ChildPipe(theirs).ready(Ready())  # nobody to tell: logged, not raised
    theirs.close()
