# SPDX-License-Identifier: Apache-2.0
"""How a server ends, and what it says when it cannot begin."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live import Server

Refusal = Callable[..., str]


@pytest.mark.parametrize("victim", ["rank0", "rank1", "api"])
def test_a_killed_child_ends_the_whole_server(tiny: Path, victim: str) -> None:
    server = Server("--model-path", str(tiny), "--tp", "2")
    children = server.children()
    killed = time.monotonic()
    os.kill(children[victim], signal.SIGKILL)
    assert server.process.wait(30) == 1
    assert time.monotonic() - killed < 5
    server.stop()
    assert "was killed by SIGKILL" in server.log
    assert not [name for name, pid in children.items() if Path(f"/proc/{pid}").exists()]


def test_a_dying_child_s_own_traceback_is_told(tiny: Path) -> None:
    server = Server("--model-path", str(tiny))
    os.kill(server.children()["rank0"], signal.SIGABRT)
    assert server.process.wait(30) == 1
    server.stop()
    assert "Fatal Python error: Aborted" in server.log and "leader.py" in server.log
    assert "replica0 was killed by SIGABRT" in server.log


def test_clients_of_a_dead_engine_get_an_answer(tiny: Path) -> None:
    server = Server("--model-path", str(tiny))
    answers: list[Any] = []

    def ask() -> None:
        body = {"text": "x", "sampling_params": {"max_new_tokens": 100_000, "ignore_eos": True}}
        body["sampling_params"]["max_new_tokens"] = 400  # type: ignore[index]
        for _ in range(1000):
            answers.append(server.http.post("/generate", json=body))
            if answers[-1].status_code != 200:
                return

    asking = threading.Thread(target=ask)
    asking.start()
    while not answers:
        time.sleep(0.01)
    os.kill(server.children()["rank0"], signal.SIGKILL)
    asking.join(30)
    assert not asking.is_alive()
    assert answers[-1].status_code in (500, 503) and "error" in answers[-1].json()
    server.stop()


def test_sigterm_drains(tiny: Path) -> None:
    """What has begun is answered in full, what is new is refused, the exit code is 0."""
    server = Server("--model-path", str(tiny))
    body = {"text": "x", "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(server.http.post("/generate", json=body)))
    asking.start()
    while not server.load()["running"]:
        time.sleep(0.002)
    server.process.send_signal(signal.SIGTERM)
    asking.join(60)
    assert answers[0].status_code == 200
    assert answers[0].json()["meta_info"]["completion_tokens"] == 400
    assert server.process.wait(60) == 0
    server.stop()


def test_sigterm_to_every_process_drains_too(tiny: Path) -> None:
    """As a service supervisor sends it: the replica, which the answer needs, outlives the api process."""
    server = Server("--model-path", str(tiny))
    body = {"text": "x", "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(server.http.post("/generate", json=body)))
    asking.start()
    while not server.load()["running"]:
        time.sleep(0.002)
    for pid in (*server.children().values(), server.process.pid):
        os.kill(pid, signal.SIGTERM)
    asking.join(60)
    assert answers[0].json()["meta_info"]["completion_tokens"] == 400
    assert server.process.wait(60) == 0
    server.stop()


def test_a_replica_that_dies_while_the_server_drains_is_noticed(tiny: Path) -> None:
    server = Server("--model-path", str(tiny))
    os.kill(server.children()["rank0"], signal.SIGSTOP)  # what has begun would never end
    body = {"text": "x", "sampling_params": {"max_new_tokens": 400, "ignore_eos": True}}
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(server.http.post("/generate", json=body)))
    asking.start()
    while not server.http.get("/server_info").json()["replicas"][0]["in_flight"]:
        time.sleep(0.002)
    server.process.send_signal(signal.SIGTERM)
    while "stopping;" not in server.log:
        time.sleep(0.01)
    killed = time.monotonic()
    os.kill(server.children()["rank0"], signal.SIGKILL)
    assert server.process.wait(30) == 1
    assert time.monotonic() - killed < 5
    asking.join(10)
    assert answers[0].status_code in (500, 503)
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
    assert server.generate(text="x")["meta_info"]["completion_tokens"] == 128
    assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_with_zero(tiny: Path) -> None:
    server = Server("--model-path", str(tiny))
    assert server.stop(signal.SIGINT) == 0


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
        (("--chat-template", "no-such-template"), "no-such-template"),
        (("--tp", "64"), "64"),
        (("--context-length", "99999999"), "context"),
        (("--tokenizer-path", "/no/such/tokenizer"), "/no/such/tokenizer"),
        (("--ssl-certfile", "/no/such.pem"), "--ssl-certfile /no/such.pem cannot be read"),
    ],
)
def test_settings_that_cannot_work(refusal: Refusal, tiny: Path, flags: tuple[str, ...], named: str) -> None:
    assert named in refusal("--port", "0", "--model-path", str(tiny), *flags)
