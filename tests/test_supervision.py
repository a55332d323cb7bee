# SPDX-License-Identifier: Apache-2.0
"""How a server ends, and what it says when it cannot begin."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from faults import Faults
from live import Server

Refusal = Callable[..., str]
_ARRANGED: dict[str, tuple[str, ...]] = {"api": (), "api1": ("--http-workers", "2")}


@contextmanager
def load_on(server: Server) -> Iterator[list[Any]]:
    """Requests in flight, half of them streamed; in the end all their answers."""
    answers: list[Any] = []
    body = {"text": "x", "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}

    def ask(stream: bool) -> None:
        answers.append(server.http.post("/generate", json={**body, "stream": stream}))

    threads = [threading.Thread(target=ask, args=(n % 2 == 1,)) for n in range(8)]
    for thread in threads:
        thread.start()
    while in_flight(server) < len(threads):
        time.sleep(0.002)
    yield answers
    for thread in threads:
        thread.join(60)
    assert len(answers) == len(threads)


def in_flight(server: Server) -> int:
    count: int = server.http.get("/server_info").json()["replicas"][0]["in_flight"]
    return count


def were_answered_in_full(answers: list[Any]) -> bool:
    return all(answer.status_code == 200 and '"completion_tokens":400' in answer.text for answer in answers)


def were_told(answers: list[Any]) -> bool:
    """A status where none had been sent, else an event."""
    failed = [answer for answer in answers if answer.status_code in (500, 503) or "data: " in answer.text]
    return len(failed) == len(answers) and all('"error":' in answer.text for answer in answers)


def gone(pids: Collection[int]) -> bool:
    return not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize("victim", ["rank0", "rank1", "api", "api1"])
def test_a_killed_child_ends_the_whole_server(tiny: Path, faults: Faults, victim: str) -> None:
    server = Server("--model-path", str(tiny), *_ARRANGED.get(victim, ("--tp", "2")))
    children = server.children()
    with load_on(server) if victim == "rank0" else nullcontext([]) as answers:
        killed = time.monotonic()
        os.kill(children[victim], signal.SIGKILL)
        assert server.process.wait(30) == 1
        took = time.monotonic() - killed
    assert took < 5
    server.stop()
    assert "was killed by SIGKILL" in server.log
    assert gone(children.values())
    assert were_told(answers)
    faults.tell(
        f"the {'api process' if victim == 'api' else f'process of {victim} of two'} is killed",
        saw="the connection ends" if "api" in victim else "500 or an event, with the reason",
        seconds=took,
        lost="what was in flight",
        test=test_a_killed_child_ends_the_whole_server,
    )


def test_several_api_processes_are_one_server(tiny: Path, tmp_path: Path) -> None:
    """What has begun is answered after SIGTERM, in whichever of them."""
    server = Server("--model-path", str(tiny), "--http-workers", "2", "--uds", str(tmp_path / "s"))
    body = {"text": "x", "sampling_params": {"max_new_tokens": 300, "ignore_eos": True}}
    answers: list[Any] = []

    def ask() -> None:
        with server.client() as client:
            answers.append(client.post("/generate", json=body))

    asking = [threading.Thread(target=ask) for _ in range(12)]
    for thread in asking:
        thread.start()
    while server.http.get("/server_info").json()["replicas"][0]["in_flight"] < 12:
        time.sleep(0.002)
    server.process.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join(60)
    assert [answer.json()["meta_info"]["completion_tokens"] for answer in answers] == [300] * 12
    assert server.process.wait(60) == 0
    server.stop()
    assert "api0: python" in server.log and "api1: python" in server.log


def test_a_dying_child_s_own_traceback_is_told(tiny: Path) -> None:
    server = Server("--model-path", str(tiny))
    os.kill(server.children()["rank0"], signal.SIGABRT)
    assert server.process.wait(30) == 1
    server.stop()
    assert "Fatal Python error: Aborted" in server.log and "leader.py" in server.log
    assert "replica0 was killed by SIGABRT" in server.log


def test_a_step_that_hangs(tiny: Path, faults: Faults) -> None:
    """One rank does not come to where the other waits for it."""
    server = Server("--model-path", str(tiny), "--tp", "2", "--watchdog-timeout", "0.5")
    children = server.children()
    began = time.monotonic()
    os.kill(children["rank1"], signal.SIGSTOP)
    with load_on(server) as answers:
        assert server.process.wait(30) == 1
    took = time.monotonic() - began
    server.stop()
    assert gone(children.values())
    assert "a step has not ended within 0.5 s (--watchdog-timeout)" in server.log
    assert were_told(answers)
    faults.tell(
        "a step hangs: one rank is stopped (`--watchdog-timeout 0.5`)",
        saw="500, with the reason",
        seconds=took,
        lost="what was in flight",
        test=test_a_step_that_hangs,
    )


def test_ctrl_c_drains(tiny: Path, faults: Faults) -> None:
    """What has begun is answered in full, what is new is refused, the exit code is 0."""
    server = Server("--model-path", str(tiny))
    with load_on(server) as answers:
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        refused = server.http.post("/generate", json={"text": "x"})
        while refused.status_code == 200:  # the signal is on its way
            refused = server.http.post("/generate", json={"text": "x"})
        assert refused.status_code == 503 and "shutting down" in refused.text
        assert server.process.wait(60) == 0
    took = time.monotonic() - began
    server.stop()
    assert were_answered_in_full(answers)
    faults.tell(
        "Ctrl-C, or SIGTERM to the launcher, under load",
        saw="all of its answer; 503 for what is new",
        seconds=took,
        lost="nothing",
        test=test_ctrl_c_drains,
    )


def test_sigterm_to_every_process_drains_too(tiny: Path, faults: Faults) -> None:
    """As a service supervisor sends it: the replica, which the answer needs, outlives the api process."""
    server = Server("--model-path", str(tiny))
    with load_on(server) as answers:
        began = time.monotonic()
        for pid in (*server.children().values(), server.process.pid):
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.01)
        os.kill(server.process.pid, signal.SIGTERM)  # which a wrapper that had it too has passed on
        assert server.process.wait(60) == 0
    took = time.monotonic() - began
    server.stop()
    assert were_answered_in_full(answers)
    faults.tell(
        "SIGTERM to every process of the server under load",
        saw="all of its answer",
        seconds=took,
        lost="nothing",
        test=test_sigterm_to_every_process_drains_too,
    )


def test_a_replica_that_dies_while_the_server_drains_is_noticed(tiny: Path, faults: Faults) -> None:
    server = Server("--model-path", str(tiny))
    os.kill(server.children()["rank0"], signal.SIGSTOP)  # what has begun would never end
    with load_on(server) as answers:
        server.process.send_signal(signal.SIGTERM)
        while "stopping;" not in server.log:
            time.sleep(0.01)
        killed = time.monotonic()
        os.kill(server.children()["rank0"], signal.SIGKILL)
        assert server.process.wait(30) == 1
        took = time.monotonic() - killed
        assert took < 5
    assert were_told(answers)
    server.stop()
    faults.tell(
        "a replica is killed while the server drains",
        saw="500, with the reason",
        seconds=took,
        lost="what was in flight",
        test=test_a_replica_that_dies_while_the_server_drains_is_noticed,
    )


def test_logs_that_cannot_be_written_and_a_launcher_that_is_killed(tiny: Path, faults: Faults) -> None:
    """Standard error is a disk without room: the server does not mind. Nothing outlives the launcher."""
    server = Server("--model-path", str(tiny), "--log-requests", errors=Path("/dev/full"))
    children = server.children()
    began = time.monotonic()
    assert server.generate(text="x", sampling_params={"max_new_tokens": 8, "ignore_eos": True})["text"]
    assert server.http.post("/generate", json={"text": ""}).status_code == 400
    faults.tell(
        "no room on the disk for logs",
        saw="nothing",
        seconds=time.monotonic() - began,
        lost="the lines",
        test=test_logs_that_cannot_be_written_and_a_launcher_that_is_killed,
    )
    killed = time.monotonic()
    server.process.kill()
    while not gone(children.values()):
        time.sleep(0.01)
        assert time.monotonic() - killed < 20
    faults.tell(
        "the launcher is killed",
        saw="the connection ends",
        seconds=time.monotonic() - killed,
        lost="what was in flight",
        test=test_logs_that_cannot_be_written_and_a_launcher_that_is_killed,
    )
    server.stop()


def test_two_servers_that_start_at_once_on_one_port(refusal: Refusal) -> None:
    """The port is taken from the moment it is bound, before anything listens."""
    from sgl_runtime.address import bind_port

    with bind_port("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in refusal("--port", str(port))


def test_a_unix_socket_is_there_while_the_server_is(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "sgl socket"
    server = Server("--model-path", str(tiny), "--uds", str(path))
    assert f"at unix:{path}," in server.log
    assert f"curl --unix-socket '{path}' http://localhost/generate" in server.log
    sampling = {"max_new_tokens": 8, "ignore_eos": True}
    assert server.generate(text="x", sampling_params=sampling)["meta_info"]["completion_tokens"] == 8
    assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use(refusal: Refusal) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in refusal("--port", str(port))


def test_an_unknown_model(refusal: Refusal) -> None:
    assert "/no/such/model" in refusal("--port", "0", "--model-path", "/no/such/model")


def test_an_unknown_host(refusal: Refusal) -> None:
    assert "--host" in refusal("--port", "0", "--host", "no.such.host.invalid")


def test_truncated_weights(refusal: Refusal, tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "model.safetensors" in refusal("--port", "0", "--model-path", str(broken))


def test_a_checkpoint_without_some_of_its_weights(refusal: Refusal, tiny: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    tensors = load_file(broken / "model.safetensors")
    moved = tensors.pop("model.layers.1.mlp.up_proj.weight")
    tensors["model.layers.7.mlp.up_proj.weight"] = moved
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    said = refusal("--port", "0", "--model-path", str(broken))
    assert "model.layers.7.mlp.up_proj.weight" in said and "layers.1.mlp" in said


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--max-total-tokens", "0"), "--max-total-tokens"),
        (("--device", "cpu", "--enable-torch-compile"), "--enable-torch-compile needs a CUDA device"),
        (("--chat-template", "no-such-template"), "no-such-template"),
        (("--tp", "64"), "64"),
        (("--context-length", "99999999"), "context"),
        (("--tokenizer-path", "/no/such/tokenizer"), "/no/such/tokenizer"),
        (("--ssl-certfile", "/no/such.pem"), "--ssl-certfile /no/such.pem cannot be read"),
    ],
)
def test_settings_that_cannot_work(refusal: Refusal, tiny: Path, flags: tuple[str, ...], named: str) -> None:
    assert named in refusal("--port", "0", "--model-path", str(tiny), *flags)
