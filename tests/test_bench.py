# SPDX-License-Identifier: Apache-2.0
"""bench serving and the profile endpoints against the demonstration server: a real model over real HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from live import Server
from sgl_runtime import cli
from sgl_runtime.bench.protocols import protocol
from sgl_runtime.bench.requests import Request


@pytest.mark.parametrize(
    ("backend", "flags"), [("sgl", []), ("openai", ["--disable-stream"]), ("openai-chat", [])]
)
def test_few_requests_by_every_protocol(
    demonstration: Server, tmp_path: Path, backend: str, flags: list[str]
) -> None:
    file = tmp_path / "out.jsonl"
    command = ["bench", "serving", "--backend", backend, "--base-url", demonstration.url, *flags]
    command += ["--dataset-name", "multi-turn", "--turns", "2", "--num-prompts", "4", "--random-input", "12"]
    command += ["--turn-len", "6", "--random-output", "5", "--disable-tqdm", "--output-file", str(file)]
    assert cli.run(command) == 0
    (row,) = (json.loads(line) for line in file.read_text().splitlines())
    assert (row["completed"], row["failed"], row["total_output_tokens"]) == (4, 0, 20)
    if backend != "openai-chat":  # which gets text, and a template around it
        assert row["total_input_tokens"] == 2 * (12 + 18)
    # A second turn finds the first in the cache, but for its last token, which was computed to sample.
    assert row["total_cached_tokens"] >= 2 * 11
    assert (row["mean_ttft_ms"] is None) == bool(flags)


@pytest.mark.parametrize("backend", ["sgl", "openai", "openai-chat"])
def test_structured_requests_are_understood(demonstration: Server, backend: str) -> None:
    api, _ = protocol(backend)
    schema = {"type": "object", "properties": {"alive": {"type": "boolean"}}, "required": ["alive"]}
    request = Request("Is the cat alive?", 40, temperature=1.0, seed=3, ignore_eos=False, schema=schema)
    answer = demonstration.http.post(api.path, json=api.body(request, "default", stream=False))
    assert answer.status_code == 200, answer.text
    assert isinstance(json.loads(api.news(answer.json()).text)["alive"], bool)


def test_a_profile_of_a_running_server(demonstration: Server) -> None:
    assert demonstration.http.post("/start_profile").status_code == 200
    again = demonstration.http.post("/start_profile")
    assert again.status_code == 409 and "already" in again.json()["error"]["message"]
    prompt = "Seven green lanterns hang over the quiet harbour"  # of no other test: not in the cache
    demonstration.generate(text=prompt, sampling_params={"max_new_tokens": 6, "ignore_eos": True})
    demonstration.generate(text=prompt, sampling_params={"max_new_tokens": 6, "regex": "[a-z ]{40}"})
    (replica,) = demonstration.http.post("/stop_profile").json()["replicas"]
    assert "decode" in replica["table"] and "prefill" in replica["table"]
    trace = Path(replica["trace"])
    try:
        events = json.loads(trace.read_text())["traceEvents"]
    finally:
        for file in trace.parent.iterdir():
            file.unlink()
        trace.parent.rmdir()
    spans = [event for event in events if event["ph"] == "X"]
    names = [event["name"] for event in spans]
    assert names.count("decode 1") >= 5
    assert {"receive", "plan", "copy", "launch", "wait", "commit", "mask", "send"} <= set(names)
