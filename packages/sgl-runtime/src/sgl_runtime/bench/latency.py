# SPDX-License-Identifier: Apache-2.0
"""`sgl-runtime bench latency`: a static batch on the engine itself, without HTTP.

This file starts the ranks, as processes of their own, and tells what the first of them reports; what is
measured is in `static_batch`. No torch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import msgspec

from sgl_runtime import log
from sgl_runtime.bench import plot, records
from sgl_runtime.bench.options import LatencyOptions
from sgl_runtime.bench.results import Answer, Comparison, Point, Profiled
from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.config import ServeConfig, bound_caches, flag_of, flags_given, share_cores
from sgl_runtime.errors import ConfigError, EngineDied
from sgl_runtime.launch import free_port, resolve
from sgl_runtime.process import (
    Child,
    Program,
    Terminated,
    first_cause,
    stop,
    termination_as_exception,
    uninterrupted,
)
from sgl_runtime.profile.report import check_folder

_STOP_S = 2.0
_DECODER = msgspec.json.Decoder(Answer)
# What the engine looks at; all else says how requests come and go over HTTP, of which there is none here.
_OF_THE_ENGINE = frozenset(
    {
        "model_path", "tokenizer_path", "skip_tokenizer_init", "load_format", "dtype", "context_length",
        "is_embedding", "device", "mem_fraction_static", "max_running_requests", "max_total_tokens",
        "chunked_prefill_size", "kv_cache_dtype", "max_prefill_tokens", "enable_mixed_chunk",
        "disable_mixed_chunk", "schedule_conservativeness", "disable_radix_cache", "disable_overlap",
        "random_seed", "tensor_parallel_size", "data_parallel_size", "attention_backend", "sampling_backend",
        "disable_flashinfer", "disable_flashinfer_sampling", "disable_cuda_graph", "enable_torch_compile",
        "log_level", "profile",
    }
)  # fmt: skip


def run(config: ServeConfig, options: LatencyOptions, announce: Callable[[str], None]) -> None:
    """Measure every point, or compare; `announce` gets the text for a person.

    Raises ConfigError for what cannot be run as asked, EngineDied when a process ends or, in the correctness
    test, the answers differ.
    """
    picture = options.graph_filename or ("out.png" if options.graph_sql else None)
    plot.check_plot(picture)
    records.check_file(options.result_filename, "--result-filename")
    records.check_file(picture, "--graph-filename")
    if options.graph_sql is not None:
        assert picture is not None
        _draw_file(options, picture)
        announce(f"drawn: {picture}")
        return
    _check(config, options, announce)
    answers: list[Answer] = []
    for answer in _computed(config, options):
        announce(describe(answer, first=not answers))
        if isinstance(answer, Point) and options.result_filename:
            records.append(options.result_filename, [_row(answer)])
        answers.append(answer)
    differing = [answer for answer in answers if isinstance(answer, Comparison) and not answer.agrees]
    if differing:
        raise EngineDied(
            f"{len(differing)} of {len(answers)} prompts have other logits after a cached beginning"
        )
    if picture is not None and not options.correctness_test:
        plot.draw(picture, _panels([answer for answer in answers if isinstance(answer, Point)]))
        announce(f"drawn: {picture}")


def _check(config: ServeConfig, options: LatencyOptions, announce: Callable[[str], None]) -> None:
    if config.data_parallel_size > 1:
        raise ConfigError(
            "--dp: replicas share no batch; measure one, or a server of several with `bench serving`"
        )
    _check_purpose(config, options)
    check_folder(config.profile)
    if idle := flags_given(config, sorted(set(ServeConfig.__struct_fields__) - _OF_THE_ENGINE)):
        announce(f"without effect here, where nothing is served: {', '.join(idle)}")


def _check_purpose(config: ServeConfig, options: LatencyOptions) -> None:
    """Refuse what only timing looks at, or only the correctness test, in the other. Raises ConfigError."""
    if not options.correctness_test:
        if flags_given(options, ["cut_len"]):
            raise ConfigError("--cut-len goes with --correctness-test: give both")
        return
    timed = flags_given(options, ("batch_size", "result_filename", "graph_filename"))
    if timed := timed + flags_given(config, ["profile"]):
        raise ConfigError(f"{timed[0]}: nothing is timed in the correctness test; drop it")
    if config.disable_radix_cache:
        raise ConfigError("--disable-radix-cache: the correctness test is one of that cache; drop it")
    if flags_given(options, ["input_len"]) and not config.skip_tokenizer_init:
        raise ConfigError(
            "--input-len: prompts of the correctness test are sentences; drop it, or make them of random "
            "tokens with --skip-tokenizer-init"
        )
    for name in ("input_len", "output_len"):
        if len(getattr(options, name)) > 1:
            raise ConfigError(f"{flag_of(name)}: the correctness test takes one; give one")


def _computed(config: ServeConfig, options: LatencyOptions) -> Iterator[Answer]:
    """What rank 0 tells, as it comes. The ranks end with this, however it ends."""
    log.configure("launcher", config.log_level)
    share_cores()
    bound_caches()
    children: list[Child] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(termination_as_exception())
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="sgl-", ignore_cleanup_errors=True))
        )
        stack.callback(_stop_all, children)
        try:
            config, model, path = resolve(config)
            ours, theirs = multiprocessing.get_context("spawn").Pipe(duplex=False)
            stack.callback(ours.close)
            for program in _programs(config, options, model, path, folder, theirs):
                children.append(Child(program))
            theirs.close()
            for child in children:
                child.wait_ready(children)
            yield from _told(ours, children)
        except (Terminated, KeyboardInterrupt):
            raise EngineDied("stopped before the end") from None


def _told(ours: Connection, children: list[Child]) -> Iterator[Answer]:
    leader, *others = children
    while True:
        happened = wait([ours, *(child.sentinel for child in others)])
        if ours not in happened:
            if not all(child.succeeded for child in others if child.sentinel in happened):
                raise first_cause(children)
            others = [child for child in others if child.sentinel not in happened]
            continue
        try:
            data = ours.recv_bytes()
        except EOFError:
            break
        yield _DECODER.decode(data)
    wait([leader.sentinel])
    if not leader.succeeded:
        raise first_cause(children)


def _programs(
    config: ServeConfig,
    options: LatencyOptions,
    model: ModelConfig,
    path: Path,
    folder: Path,
    theirs: Connection,
) -> Iterator[Program]:
    ranks = config.tensor_parallel_size
    rendezvous = f"tcp://127.0.0.1:{free_port()}" if ranks > 1 else None
    common: dict[str, Any] = {
        "config": config,
        "model": model,
        "path": path,
        "rendezvous": rendezvous,
        "leader": f"ipc://{folder}/leader",
        "launched_at": time.monotonic(),
    }
    own = {"options": options, "answers": theirs}
    levels = {"log_level": config.log_level}
    yield Program("rank0", "sgl_runtime.bench.static_batch:run", {**common, **own}, **levels, drains=False)
    for rank in range(1, ranks):
        place = {"replica": 0, "rank": rank, "inbox": "", "outboxes": []}
        entry = "sgl_runtime.replica.main:run"
        yield Program(f"rank{rank}", entry, {**common, **place}, **levels, drains=False)


def _stop_all(children: list[Child]) -> None:
    with uninterrupted():
        stop(children, seconds=_STOP_S)


def _row(point: Point) -> dict[str, Any]:
    return {key: value for key, value in msgspec.to_builtins(point).items() if key != "type"}


def describe(answer: Answer, *, first: bool) -> str:
    """For a person. first: with what all of them have in common."""
    match answer:
        case Point():
            return _heading(answer) + _line(answer) if first else _line(answer)
        case Comparison():
            return _compare(answer)
        case Profiled():
            return f"\nprofile in {answer.trace}\n{answer.table}"


_COLUMNS = (
    f"{'batch':>6}{'input':>8}{'output':>8} |{'prefill s':>11}{'tok/s':>11} |{'decode step ms':>15}"
    f"{'tok/s of one':>14}{'tok/s of all':>14} |{'total s':>10}{'tok/s':>11}"
)


def _heading(point: Point) -> str:
    return (
        f"{point.run_name}: {point.model}, {point.dtype} on {point.device}, "
        f"{point.tensor_parallel_size} rank(s), attention {point.attention_backend}\n"
        "decode: median of the steps; of one: what one request sees, of all: the whole batch\n"
        + _COLUMNS
        + "\n"
    )


def _line(point: Point) -> str:
    step, one, every = (
        point.median_decode_latency,
        point.decode_speed_per_request,
        point.median_decode_throughput,
    )
    decode = (
        f"{'-':>15}{'-':>14}{'-':>14}"
        if step is None or one is None or every is None
        else f"{1e3 * step:>15.2f}{one:>14.1f}{every:>14.1f}"
    )
    firsts = ", ".join(f"{1e3 * latency:.2f}" for latency in point.first_decode_latencies)
    return (
        f"{point.batch_size:>6}{point.input_len:>8}{point.output_len:>8} |"
        f"{point.prefill_latency:>11.4f}{point.prefill_throughput:>11.1f} |{decode} |"
        f"{point.total_latency:>10.3f}{point.overall_throughput:>11.1f}"
        + (f"\n{'':>24}first decode steps, ms: {firsts}" if firsts else "")
    )


def _compare(comparison: Comparison) -> str:
    def tops(entries: list[tuple[int, float]]) -> str:
        return "  ".join(f"{token}:{value:.4f}" for token, value in entries[:5])

    same = comparison.tokens_whole == comparison.tokens_after_cache
    verdict = "agrees" if comparison.agrees else "DIFFERS"
    largest = f"{comparison.difference:.2e}" if comparison.difference is not None else "of no token in common"
    return (
        f"\n{comparison.prompt}\n"
        f"  whole prompt        {tops(comparison.whole)}\n"
        f"  {comparison.cached:>3} tokens in cache  {tops(comparison.after_cache)}\n"
        f"  largest difference of a log-probability {largest}, allowed "
        f"{comparison.tolerance:.0e}: {verdict}\n"
        f"  greedy tokens {'equal' if same else 'differ (a near tie, if the logits agree)'}: "
        f"{comparison.tokens_whole}"
        + ("" if same else f"\n  after the cache: {comparison.tokens_after_cache}")
        + (f"\n  {comparison.text!r}" if comparison.text else "")
    )


def _panels(points: list[Point]) -> list[plot.Panel]:
    panels = []
    for title, field in (("prefill", "prefill_throughput"), ("decode", "median_decode_throughput")):
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for point in points:
            if (value := getattr(point, field)) is not None:
                xs, ys = lines.setdefault(f"{point.input_len} in, {point.output_len} out", ([], []))
                xs.append(point.batch_size)
                ys.append(value)
        panels.append(
            plot.Panel(title, "batch size", "tokens/s of the batch", [(k, *v) for k, v in lines.items()])
        )
    return panels


def _draw_file(options: LatencyOptions, picture: str) -> None:
    assert options.graph_sql is not None
    if not options.result_filename:
        raise ConfigError("--graph-sql draws what is in a file: name it with --result-filename")
    rows = records.read(options.result_filename, "--result-filename")
    plot.draw(picture, [plot.query(rows, options.graph_sql)])
