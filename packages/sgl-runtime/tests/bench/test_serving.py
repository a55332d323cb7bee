# SPDX-License-Identifier: Apache-2.0
"""bench serving against a scripted server: what it sends and counts, and what it does when that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_server import ODD, FakeServer, listening

from sgl_runtime.bench.client import Client, Outcome, connect
from sgl_runtime.bench.protocols import protocol
from sgl_runtime.bench.requests import Load, Request
from sgl_runtime.bench.serving import drive

Command = Callable[..., tuple[int, str, str]]

PATHS = {
    "sgl": "/generate",
    "sglang": "/generate",
    "openai": "/v1/completions",
    "vllm": "/v1/completions",
    "sglang-oai": "/v1/completions",
    "lmdeploy": "/v1/completions",
}
LATENCIES = [
    f"{kind}_{name}_ms"
    for name in ("e2e_latency", "ttft", "tpot", "itl")
    for kind in ("mean", "median", "std", "p99")
]


def serving(command: Command, server: FakeServer, *flags: object) -> tuple[int, str, str]:
    return command("bench", "serving", "--base-url", server.url, "--disable-tqdm", *flags)


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(("backend", "word"), [("sgl", " a"), ("openai", " a"), ("openai-chat", "ab")])
def test_every_token_has_its_moment(backend: str, word: str) -> None:
    """Events without a new token, of the role, the end or the usage, are none."""

    async def scene(url: str) -> tuple[Outcome, list[Outcome]]:
        api, _ = protocol(backend)
        async with connect(None, 60) as session:
            client = Client(session, url, api, "m", extra={}, stream=True)
            asked = Request("abc" if backend == "openai-chat" else [1, 2, 3], 7)
            one = await client.send(asked, stream=True)
            load = Load("two", [[asked], [asked]], [0.0, 0.25])
            return one, await drive(client, load, None, quiet=True)

    with listening(FakeServer()) as server:
        one, (early, late) = asyncio.run(scene(server.url))
    assert (one.error, one.text, one.output_tokens, one.prompt_tokens) == ("", word * 7, 7, 3)
    assert len(one.stamps) == 7 and one.start < one.stamps[0] <= one.stamps[-1] <= one.end
    assert late.start - early.start > 0.2, "nobody is sent before its time"


@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("stream", [True, False])
def test_a_run_of_random_prompts(command: Command, tmp_path: Path, backend: str, stream: bool) -> None:
    file = tmp_path / "out.jsonl"
    flags = ["--backend", backend, "--num-prompt", 5, "--random-input", 20, "--random-output", 6]
    flags += ["--random-range-ratio", 1, "--dataset-name", "random", "--output-file", file]
    flags += [] if stream else ["--disable-stream"]
    with listening(FakeServer()) as server:
        code, out, err = serving(command, server, *flags)
        again = serving(command, server, *flags)[0]
    assert (code, again) == (0, 0), err
    assert set(server.paths) == {PATHS[backend]}
    assert len(server.bodies) == 2 * (1 + 5)  # a warm-up each
    first, second = rows(file)
    for row in (first, second):
        assert (row["completed"], row["failed"], row["num_prompts"]) == (5, 0, 5)
        assert (row["total_input_tokens"], row["total_output_tokens"]) == (100, 30)
        assert row["backend"] == backend and row["model"] == "a-model" and row["request_rate"] == "inf"
        assert row["output_throughput"] == pytest.approx(30 / row["duration"])
        assert set(LATENCIES) <= set(row)
        assert all((row[key] is not None) == (stream or "e2e" in key) for key in LATENCIES)
    assert ("all requests together" in out) and ("of one stream after its first token" in out)
    prompts = [body.get("input_ids") or body["prompt"] for body in server.bodies]
    assert prompts[:6] == prompts[6:], "the same seed asks the same"
    assert all(len(prompt) == 20 and max(prompt) < 5000 for prompt in prompts[1:6])
    body = server.bodies[1]
    assert body["stream"] is stream
    sampling = body.get("sampling_params", body)
    assert sampling["ignore_eos"] is True and sampling["temperature"] == 0.0
    if "prompt" in body:
        assert body.get("stream_options") == ({"include_usage": True} if stream else None)


def test_a_server_on_a_unix_socket(command: Command, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    flags = ["--dataset-name", "random", "--random-input", 9, "--random-output", 4, "--num-prompts", 2]
    with listening(FakeServer(), path) as server:
        code, out, err = command("bench", "serving", "--uds", path, "--disable-tqdm", *flags)
    assert (code, len(server.bodies)) == (0, 3), err
    assert f"at unix:{path}" in out


def test_chat_is_asked_in_text_and_counted_twice(command: Command, tmp_path: Path, tiny: Path) -> None:
    file = tmp_path / "out.jsonl"
    flags = ["--num-prompts", 3, "--random-output", 4, "--random-range-ratio", 1, "--random-input", 9]
    flags += ["--dataset-name", "random", "--output-file", file, "--disable-ignore-eos"]
    with listening(FakeServer(vocab_size=None)) as server:
        refused = serving(command, server, "--backend", "openai-chat", *flags)
        done = serving(command, server, "--backend", "vllm-chat", "--tokenizer", tiny, *flags)
    assert refused[0] == 2 and "--tokenizer" in refused[2]
    assert done[0] == 0, done[2]
    (row,) = rows(file)
    assert row["total_output_tokens"] == 12 and row["total_cached_tokens"] == 3
    assert row["total_output_tokens_retokenized"] == 3 * 8  # "abababab", a byte each
    for body in server.bodies:
        assert isinstance(body["messages"][0]["content"], str) and "ignore_eos" not in body


def test_tokens_that_the_server_does_not_count(command: Command, tmp_path: Path, tiny: Path) -> None:
    flags = ["--backend", "openai", "--num-prompts", 2, "--dataset-name", "random", "--random-output", 5]
    flags += ["--random-range-ratio", 1, "--random-input", 8, "--output-file", tmp_path / "out.jsonl"]
    with listening(FakeServer(usage=False)) as server:
        code, _, err = serving(command, server, *flags)
        assert code == 1 and "--tokenizer" in err
        assert serving(command, server, *flags, "--tokenizer", tiny)[0] == 0
    (row,) = rows(tmp_path / "out.jsonl")
    assert row["total_output_tokens"] == row["total_output_tokens_retokenized"] == 2 * 10
    assert row["total_input_tokens"] is None and row["input_throughput"] is None


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("500", "on fire"),
        ("error event", "retracted"),
        ("not JSON", "DecodeError"),
        ("no end", "without [DONE]"),
    ],
)
def test_a_server_that_fails_is_told_and_not_measured(command: Command, fault: str, told: str) -> None:
    flags = ["--num-prompts", 4, "--dataset-name", "random", "--random-input", 8, "--random-output", 4]
    with listening(FakeServer(fault=fault)) as server:
        code, _, err = serving(command, server, *flags)
        assert code == 2 and told in err and "first request" in err
        code, _, err = serving(command, server, *flags, "--warmup-requests", 0)
        assert code == 1 and told in err and "none of 4" in err


@pytest.mark.parametrize("backend", ["sgl", "openai"])
@pytest.mark.parametrize("fault", [*ODD, "gone"])
def test_a_target_that_speaks_otherwise_or_dies_ends_its_requests_alone(
    command: Command, fault: str, backend: str
) -> None:
    flags = ["--num-prompts", 2, "--dataset-name", "random", "--random-input", 8, "--random-output", 4]
    with listening(FakeServer(fault=fault)) as server:
        code, _, err = serving(command, server, "--backend", backend, *flags, "--warmup-requests", 0)
    assert code == 1 and "none of 2 requests was answered" in err


@pytest.mark.parametrize("size", [-5, 0, 7, True])
def test_a_vocabulary_that_makes_no_prompt_is_asked_for(command: Command, size: int) -> None:
    with listening(FakeServer(vocab_size=size)) as server:
        code, _, err = serving(command, server, "--num-prompts", 1)
    assert code == 2 and "--vocab-size" in err


def test_a_target_that_says_nothing_is_not_waited_for(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgl_runtime.bench.client._ASK_S", 0.1)
    with listening(FakeServer(fault="silent")) as server:
        code, _, err = serving(command, server)
    assert code == 2 and f"no server answers at {server.url}/v1/models (TimeoutError" in err


def test_a_full_disk_is_told_after_the_figures(command: Command) -> None:
    with listening(FakeServer()) as server:
        code, out, err = serving(command, server, "--num-prompts", 1, "--output-file", "/dev/full")
    assert code == 1 and "requests answered" in out
    assert "/dev/full cannot be written" in err


def test_some_failures_are_counted_and_the_rest_measured(command: Command, tmp_path: Path) -> None:
    flags = ["--num-prompts", 4, "--dataset-name", "multi-turn", "--turns", 2, "--random-input", 8]
    flags += ["--random-output", 3, "--turn-len", 5, "--warmup-requests", 0, "--max-concurrency", 1]
    file = tmp_path / "out.jsonl"
    with listening(FakeServer(fault="later 500")) as server:
        code, out, _ = serving(command, server, *flags, "--output-file", file)
    assert code == 0 and "3 failed" in out
    (row,) = rows(file)
    assert (row["completed"], row["failed"], row["total_output_tokens"]) == (1, 3, 3)
    assert "on fire" in row["first_error"]
    # Of two conversations one got an answer and then failed, the other failed at once and was given up.
    assert len(server.bodies) == 3


def test_rates_in_turn_with_fresh_prompts_each(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    flags = ["--num-prompts", 3, "--dataset-name", "random", "--random-input", 8, "--random-output", 2]
    with listening(FakeServer()) as server:
        code, out, _ = serving(
            command, server, *flags, "--request-rate-range", "200,601,200", "--output-file", file
        )
    assert code == 0
    assert [row["request_rate"] for row in rows(file)] == [200.0, 400.0, 600.0]
    prompts = [tuple(body["input_ids"]) for body in server.bodies]
    assert len(set(prompts)) == len(prompts) == 1 + 9
    assert "random at 400 requests/s" in out


def test_no_more_in_flight_than_asked_for(command: Command) -> None:
    flags = ["--num-prompts", 12, "--dataset-name", "random", "--random-input", 8, "--random-output", 2]
    with listening(FakeServer()) as server:
        assert serving(command, server, *flags, "--max-concurrency", 3)[0] == 0
        assert server.most_in_flight == 3
        assert serving(command, server, *flags)[0] == 0
        assert server.most_in_flight > 3


def test_fixed_workloads(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    with listening(FakeServer()) as server:
        code, _, err = serving(
            command, server, "--backend", "openai", "--workloads", "latency", "batch32", "--output-file", file
        )
    assert code == 0, err
    one, many = rows(file)
    assert (one["dataset_name"], one["completed"], one["total_input_tokens"]) == ("latency", 6, 6 * 128)
    assert (many["dataset_name"], many["completed"], many["total_output_tokens"]) == ("batch32", 96, 96 * 32)
    assert one["median_ttft_ms"] is not None and many["median_ttft_ms"] is None
    assert server.most_in_flight <= 32


def test_an_extra_body_lies_over_ours(command: Command) -> None:
    extra = json.dumps({"top_k": 5, "temperature": 0.5, "sampling_params": {"top_p": 0.5}})
    flags = ["--num-prompts", 1, "--dataset-name", "random", "--random-output", 4, "--random-range-ratio", 1]
    with listening(FakeServer()) as server:
        assert serving(command, server, *flags, "--extra-request-body", extra, "--api-key", "k")[0] == 0
    body = server.bodies[-1]
    assert body["top_k"] == 5 and body["sampling_params"]["top_p"] == 0.5
    assert body["sampling_params"]["max_new_tokens"] == 4
    assert set(server.keys) == {"Bearer k"}


def test_a_picture(command: Command, tmp_path: Path) -> None:
    flags = ["--num-prompts", 3, "--dataset-name", "random", "--random-input", 8, "--random-output", 4]
    with listening(FakeServer()) as server:
        code, out, err = serving(command, server, *flags, "--graph-filename", tmp_path / "a.png")
    assert code == 0 and "drawn" in out, err
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--backend", "trt"], "trtllm-serve"),
        (["--backend", "tgi"], "--backend openai"),
        (["--backend", "ollama"], "--backend openai"),
        (["--extra-request-body", "[1]"], "--extra-request-body"),
        (["--extra-request-body", "{"], "--extra-request-body"),
        (["--request-rate-range", "2,1,1"], "--request-rate-range"),
        (["--request-rate-range", "0,4,2"], "--request-rate-range"),
        (["--multi", "--request-rate", "3"], "--request-rate"),
        (["--request-rate", "0"], "--request-rate"),
        (["--num-prompts", "0"], "--num-prompts"),
        (["--random-range-ratio", "1.5"], "--random-range-ratio"),
        (["--dataset-name", "sharegpt"], "--dataset-path"),
        (["--dataset-name", "random", "--dataset-path", "x"], "--dataset-path"),
        (["--workloads", "latency", "--num-prompts", "3"], "--num-prompts"),
        (["--output-file", "/nowhere/at/all"], "--output-file"),
        (["--output-file", "a" * 300], "--output-file"),
        (["--output-file", "/proc/x"], "--output-file"),
        (["--output-file", ""], "--output-file"),
        (["--graph-filename", "/proc/x.png"], "--graph-filename"),
        (["--timeout", "inf"], "--timeout"),
        (["--api-key", "a\nb"], "--api-key"),
        (["--random-input-len", "5"], "random or multi-turn"),
        (["--dataset-name", "random", "--turns", "2"], "multi-turn"),
        (["--dataset-name", "shared-prefix", "--random-range-ratio", "1"], "--random-range-ratio"),
        (["--base-url", "http://127.0.0.1:9", "--port", "8000"], "--port"),
        (["--uds", "x", "--host", "10.0.0.1"], "--host"),
        (["--graph-filename", "a.docx"], "--graph-filename"),
        (["--base-url", "http://127.0.0.1:9"], "--base-url"),
    ],
)
def test_what_cannot_be_is_refused_by_flag(command: Command, flags: list[str], told: str) -> None:
    code, _, err = command("bench", "serving", *flags)
    assert code == 2 and told in err and err.count("\n") == 1


@pytest.mark.parametrize("missing", ["aiohttp", "matplotlib"])
def test_what_is_not_installed_is_named_with_the_line_that_installs_it(
    command: Command, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for module in ("client", "plot"):
        monkeypatch.setattr(
            f"sgl_runtime.bench.{module}.find_spec", lambda name: None if name == missing else object()
        )
    code, _, err = command("bench", "serving", "--graph-filename", "a.png")
    assert code == 2 and missing in err and "pip install 'sgl-runtime[bench]'" in err
