# SPDX-License-Identifier: Apache-2.0
"""bench latency on a tiny model: through the command with two ranks, and its parts alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from sgl_runtime.bench import correctness, latency, plot, static_batch
from sgl_runtime.bench.options import LatencyOptions
from sgl_runtime.bench.results import Answer, Comparison, Point
from sgl_runtime.checkpoint.config import read_config
from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.messages import Capacity, Delta, Generate, Logprobs, Ready

Command = Callable[..., tuple[int, str, str]]
CAPACITY = Capacity(slots=1000, rows=8, context_length=512, vocab_size=260)
FIELDS = {
    "run_name", "batch_size", "input_len", "output_len", "prefill_latency", "prefill_throughput",
    "first_decode_latencies", "median_decode_latency", "median_decode_throughput", "decode_speed_per_request",
    "total_latency", "overall_throughput", "model", "device", "dtype", "tensor_parallel_size",
    "attention_backend", "version",
}  # fmt: skip


def test_a_sweep_over_two_ranks(command: Command, tiny: Path, tmp_path: Path) -> None:
    file, traces = tmp_path / "out.jsonl", tmp_path / "traces"
    flags = ["--model", tiny, "--load-format", "dummy", "--dtype", "float32", "--tp", 2, "--device", "cpu"]
    flags += ["--max-total-token", 2000, "--run-name", "after"]
    flags += ["--batch", 1, 3, "--input", 20, "--output", 1, 6]
    flags += ["--result-filename", file, "--graph-filename", tmp_path / "a.svg", "--profile", traces]
    code, out, err = command("bench", "latency", *flags, "--port", 1)
    assert code == 0, err
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    points = [(row["batch_size"], row["input_len"], row["output_len"]) for row in rows]
    assert points == [(1, 20, 1), (1, 20, 6), (3, 20, 1), (3, 20, 6)]
    for row in rows:
        assert set(row) == FIELDS
        assert row["run_name"] == "after" and row["tensor_parallel_size"] == 2 and row["dtype"] == "float32"
        assert 0 < row["prefill_latency"] <= row["total_latency"]
        assert row["prefill_throughput"] == pytest.approx(row["batch_size"] * 20 / row["prefill_latency"])
        assert len(row["first_decode_latencies"]) == min(5, row["output_len"] - 1)
        assert (row["median_decode_latency"] is None) == (row["output_len"] == 1)
    assert "without effect here, where nothing is served: --port" in out
    assert "<svg" in (tmp_path / "a.svg").read_text()
    (trace,) = traces.glob("*.trace.json")
    names = [event["name"] for event in json.loads(trace.read_text())["traceEvents"]]
    # The measured runs alone, each of 1 or 6 steps: the warm ones were before it.
    assert names.count("prefill 3 (60 tokens)") == 2 and names.count("decode 3") == 5
    assert names.count("fanout") == 14
    # And drawn again from the file.
    sql = "SELECT run_name || output_len, batch_size, prefill_throughput FROM results"
    again = ["--result-filename", file, "--graph-filename", tmp_path / "b.png"]
    assert command("bench", "latency", *again, "--graph-sql", sql)[0] == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = command("bench", "latency", *again, "--graph-sql", "SELECT speed FROM results")
    assert code == 2 and "no such column" in err and "prefill_latency" in err


class Ignored:
    """A pipe to nobody."""

    def ready(self, ready: Ready) -> None:
        assert ready.capacity is not None


def answers(tiny: Path, options: LatencyOptions, **config: Any) -> list[Answer]:
    """What rank 0 tells, computed in this process."""
    usual = {"load_format": "dummy", "dtype": "float32", "device": "cpu", "max_total_tokens": 900}
    settings = ServeConfig(model_path=str(tiny), **{**usual, **config})
    ours, theirs = Pipe(duplex=False)
    static_batch.run(
        Ignored(),  # type: ignore[arg-type]
        config=settings,
        options=options,
        model=read_config(tiny),
        path=tiny,
        rendezvous=None,
        leader="",
        launched_at=time.monotonic(),
        answers=theirs,
    )
    told: list[Answer] = []
    while True:
        try:
            told.append(msgspec.json.decode(ours.recv_bytes(), type=Answer))
        except EOFError:
            ours.close()
            return told


def test_a_cached_beginning_gives_the_same_logits(tiny: Path) -> None:
    told = answers(tiny, LatencyOptions(correctness_test=True, cut_len=7, output_len=(5,)))
    assert len(told) == 3
    for comparison in told:
        assert isinstance(comparison, Comparison) and comparison.agrees
        assert comparison.cached == 7 and len(comparison.tokens_whole) == 5
        assert comparison.tokens_whole == comparison.tokens_after_cache
        assert comparison.whole[0][0] == comparison.tokens_whole[0]


def test_without_a_tokenizer_prompts_are_random_ids(tiny: Path) -> None:
    options = LatencyOptions(correctness_test=True, input_len=(30,), output_len=(2,))
    told = answers(tiny, options, skip_tokenizer_init=True)
    assert [comparison.prompt for comparison in told if isinstance(comparison, Comparison)] == [
        "30 random tokens"
    ] * 3


class Cheating:
    """An engine whose cache spoils the logits by `shift`."""

    def __init__(self, shift: float) -> None:
        self._shift = shift
        self._cached = 0

    def flush(self) -> None:
        self._cached = 0

    def run(self, requests: Sequence[Generate]) -> tuple[float, list[tuple[float, list[Delta]]]]:
        (request,) = requests
        cached, self._cached = self._cached, len(request.tokens)
        if request.logprobs is None:
            return 0.0, []
        value = -1.0 - (self._shift if cached else 0.0)
        scores = Logprobs([3], [value], [[(3, value), (4, -2.0)]])
        return 0.0, [(1.0, [Delta("prompt", [3], cached=cached, output_logprobs=scores)])]


@pytest.mark.parametrize(("shift", "agrees"), [(0.0005, True), (0.002, False)])
def test_other_logits_after_the_cache_are_noticed(shift: float, agrees: bool, tiny: Path) -> None:
    options = LatencyOptions(correctness_test=True, input_len=(30,))
    config = ServeConfig(skip_tokenizer_init=True)
    for comparison in correctness.compare(Cheating(shift), config, options, tiny, CAPACITY, torch.float32):
        assert comparison.agrees is agrees and comparison.cached == 4
        assert comparison.difference == pytest.approx(shift)


def test_answers_without_a_token_in_common_are_told_as_differing() -> None:
    scores: list[tuple[int, float]] = [(3, -1.0)]
    comparison = Comparison(
        prompt="",
        cached=4,
        whole=scores,
        after_cache=[(4, -1.0)],
        difference=correctness.difference(scores, [(4, -1.0)]),
        tolerance=1e-3,
        tokens_whole=[3],
        tokens_after_cache=[4],
        text="",
    )
    told = msgspec.json.decode(msgspec.json.encode(comparison), type=Answer)
    assert told == comparison and not told.agrees
    assert "DIFFERS" in latency.describe(told, first=True)


@pytest.mark.parametrize("limits", [{"context_length": 12}, {"max_total_tokens": 12}])
def test_prompts_of_the_correctness_test_that_do_not_fit_are_refused(
    tiny: Path, limits: dict[str, int]
) -> None:
    with pytest.raises(ConfigError, match="room for 12"):
        answers(tiny, LatencyOptions(correctness_test=True), **limits)


def test_steps_are_told_apart_by_who_got_tokens() -> None:
    def deltas(*rids: str) -> list[Delta]:
        return [Delta(rid, [1]) for rid in rids]

    # a's prompt, then b's beside a (mixed), then two steps of both, then b alone.
    steps = [
        (11.0, deltas("a")),
        (13.0, deltas("a", "b")),
        (13.1, []),
        (13.5, deltas("a", "b")),
        (14.5, deltas("a", "b")),
        (15.0, deltas("b")),
    ]
    found = static_batch.measure(10.0, steps, 2, 30, 4)
    assert found["prefill_latency"] == 3.0 and found["prefill_throughput"] == 20.0
    assert found["first_decode_latencies"] == [0.5, 1.0] and found["median_decode_latency"] == 0.75
    assert found["median_decode_throughput"] == 2 / 0.75 and found["decode_speed_per_request"] == 1 / 0.75
    assert found["total_latency"] == 5.0 and found["overall_throughput"] == 2 * 34 / 5


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"input_len": (500,), "output_len": (13,)}, "the context has 512"),
        ({"batch_size": (1, 9), "input_len": (1,)}, "--max-running-requests"),
        ({"batch_size": (2,), "input_len": (490,), "output_len": (11,)}, "at most --batch-size 1"),
    ],
)
def test_a_batch_that_would_not_run_as_one_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        static_batch.check_room(LatencyOptions(**options), CAPACITY)


def test_a_model_of_vectors_has_nothing_to_time() -> None:
    capacity = msgspec.structs.replace(CAPACITY, answers="embeddings")
    with pytest.raises(ConfigError, match="answers with embeddings"):
        static_batch.check_room(LatencyOptions(), capacity)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--dp", "2"], "--dp"),
        (["--batch-size", "0"], "--batch-size"),
        (["--graph-sql", "SELECT 1"], "--result-filename"),
        (["--graph-sql", "SELECT 1", "--result-filename", "/nowhere/x"], "--result-filename"),
        (["--profile", "/dev/null/x"], "--profile"),
        (["--cut-len", "5"], "--correctness-test"),
        (["--correctness-test", "--result-filename", "x.jsonl"], "--result-filename"),
        (["--correctness-test", "--graph-filename", "x.png"], "--graph-filename"),
        (["--correctness-test", "--batch-size", "2"], "--batch-size"),
        (["--correctness-test", "--input-len", "30"], "--skip-tokenizer-init"),
        (["--correctness-test", "--output-len", "2", "3"], "--output-len"),
        (["--correctness-test", "--disable-radix-cache"], "--disable-radix-cache"),
        (["--correctness-test", "--profile", "x"], "--profile"),
        (["--model-path", "/nowhere/at.gguf"], "/nowhere"),
    ],
)
def test_what_cannot_be_is_refused_by_flag(command: Command, flags: list[str], told: str) -> None:
    code, _, err = command("bench", "latency", *flags)
    assert code == 2 and told in err and "Traceback" not in err


def test_what_serving_alone_looks_at_is_told_to_have_no_effect(command: Command) -> None:
    flags = ["--http-workers", "2", "--uds", "x", "--tool-call-parser", "hermes", "--max-batch-lines", "7"]
    _, out, _ = command("bench", "latency", "--model-path", "/nowhere/at.gguf", "--tp", "2", *flags)
    (told,) = out.splitlines()
    assert told.endswith("--http-workers, --max-batch-lines, --tool-call-parser, --uds")


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT run_name, run_name, input_len FROM results", "not a number"),
        ("SELECT run_name, abs(-9223372036854775807 - input_len), 1 FROM results", "integer overflow"),
        ("DROP TABLE results", "0 columns"),
    ],
)
def test_a_query_that_draws_nothing_is_refused(command: Command, tmp_path: Path, sql: str, told: str) -> None:
    file = tmp_path / "out.jsonl"
    row = {"run_name": "a", "input_len": 1}
    file.write_text(
        "".join(json.dumps({**row, **more}) + "\n" for more in ({}, {"median_decode_latency": 0.5}))
    )
    flags = ["--result-filename", file, "--graph-filename", tmp_path / "a.png", "--graph-sql", sql]
    code, _, err = command("bench", "latency", *flags)
    assert code == 2 and "--graph-sql" in err and told in err and err.count("\n") == 1


@pytest.mark.parametrize("axes", ["input_len, median_decode_latency", "median_decode_latency, input_len"])
def test_points_that_a_result_has_not_are_not_drawn(axes: str) -> None:
    rows = [{"input_len": 1}, {"input_len": 3, "median_decode_latency": 0.5}]
    ((_, x, y),) = plot.query(rows, f"SELECT 'a', {axes} FROM results").lines
    assert sorted([*x, *y]) == [0.5, 3]


@pytest.mark.parametrize("row", [{'a"b': 1}, {"a": 1, "A": 2}, {"a": 1 << 70}])
def test_results_that_make_no_table_are_refused(
    command: Command, tmp_path: Path, row: dict[str, int]
) -> None:
    (tmp_path / "out.jsonl").write_text(json.dumps(row))
    flags = ["--result-filename", tmp_path / "out.jsonl", "--graph-filename", tmp_path / "a.png"]
    code, _, err = command("bench", "latency", *flags, "--graph-sql", "SELECT 1, 2, 3 FROM results")
    assert code == 2 and "--graph-sql" in err and err.count("\n") == 1


def test_a_point_is_its_json_line() -> None:
    assert set(Point.__struct_fields__) == FIELDS
