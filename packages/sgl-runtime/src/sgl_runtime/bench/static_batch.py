# SPDX-License-Identifier: Apache-2.0
"""The process of `bench latency` that computes: rank 0, with the loop that serves and a batch put into it.

Scheduler, runner and leader are those of a replica; in place of the channels stands `Desk`, which hands in
requests and looks at the clock when tokens come out. So a step costs here what it costs in a server, overlap
included, and `result()` has waited for the device before a time is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter

import msgspec
import numpy as np
import torch

from sgl_runtime.bench import correctness
from sgl_runtime.bench.options import LatencyOptions
from sgl_runtime.bench.results import Answer, Point, Profiled
from sgl_runtime.cache.prefix import NoCache, PrefixCache
from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.channel import Fanout
from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.messages import (
    Capacity,
    Delta,
    Flush,
    Generate,
    Halt,
    Message,
    Ready,
    Sampling,
    Step,
    ToReplica,
)
from sgl_runtime.process import ChildPipe
from sgl_runtime.replica.device_clock import DeviceClock
from sgl_runtime.replica.leader import Leader
from sgl_runtime.replica.main import FOLLOWERS_CONNECT_S, Phases, make_runner, make_scheduler
from sgl_runtime.runner.load import choose_dtype
from sgl_runtime.runner.runner import Runner

_FIRST_STEPS = 5
_WARM_OUTPUT = 8  # tokens: enough for every kind of step to have happened


class Desk:
    """Both ends of the leader's channels: requests go in, and what comes out gets the time."""

    def __init__(self) -> None:
        self._arrived: list[ToReplica] = []
        self.steps: list[tuple[float, list[Delta]]] = []

    def put(self, requests: Sequence[ToReplica]) -> None:
        self._arrived += requests
        self.steps = []

    def drain(self) -> list[ToReplica]:
        arrived, self._arrived = self._arrived, []
        return arrived

    def wait(self, seconds: float) -> bool:
        return bool(self._arrived)

    def send(self, message: Message) -> None:
        if isinstance(message, Step):
            self.steps.append((perf_counter(), message.deltas))


class Engine:
    """One replica that is driven by hand."""

    def __init__(
        self, config: ServeConfig, runner: Runner, cache: PrefixCache, followers: Fanout | None
    ) -> None:
        self.desk = Desk()
        kind = "cuda" if runner.asynchronous else "cpu"
        # The batch is there as a whole: nothing is refused, and nobody goes before another.
        config = msgspec.structs.replace(config, max_queued_requests=None, schedule_policy="fcfs")
        scheduler = make_scheduler(config, runner.capacity, kind, cache)
        self.leader = Leader(
            scheduler,
            runner,
            self.desk,
            self.desk,
            replica=0,
            followers=followers,
            overlap=runner.asynchronous and not config.disable_overlap,
            clock=partial(DeviceClock, runner) if runner.asynchronous else None,
        )

    def run(self, requests: Sequence[Generate]) -> tuple[float, list[tuple[float, list[Delta]]]]:
        """Compute them together, to the end. When it began, and what came out when (`perf_counter`)."""
        self.desk.put(requests)
        started = perf_counter()
        self.leader.step()
        while not self.leader.idle:
            self.leader.step()
        return started, self.desk.steps

    def flush(self) -> None:
        """Forget every prefix."""
        self.desk.put([Flush("flush")])
        self.leader.step()


def run(
    pipe: ChildPipe,
    *,
    config: ServeConfig,
    options: LatencyOptions,
    model: ModelConfig,
    path: Path,
    rendezvous: str | None,
    leader: str,
    launched_at: float,
    answers: Connection,
) -> None:
    """Send an Answer, as JSON, for every point or prompt; arguments as of `replica.main.run`."""
    phases = Phases(launched_at)
    runner, tp = make_runner(config, model, path, phases, replica=0, rank=0, rendezvous=rendezvous)
    check_room(options, runner.capacity)
    followers = None
    if tp.size > 1:
        followers = Fanout(leader)
        followers.gather(tp.size - 1, seconds=FOLLOWERS_CONNECT_S)
    pipe.ready(Ready(runner.capacity, phases.seconds))

    def tell(answer: Answer) -> None:
        answers.send_bytes(msgspec.json.encode(answer))

    try:
        dtype = choose_dtype(config.dtype, model.dtype, tp.device)
        if options.correctness_test:
            engine = Engine(config, runner, RadixCache(), followers)
            for comparison in correctness.compare(engine, config, options, path, runner.capacity, dtype):
                tell(comparison)
            return
        engine = Engine(config, runner, NoCache(), followers)
        about = {
            "model": config.model_path or path.stem,
            "device": torch.cuda.get_device_name(tp.device) if tp.device.type == "cuda" else "CPU",
            "dtype": str(dtype).removeprefix("torch."),
            "tensor_parallel_size": tp.size,
            "attention_backend": config.attention_backend,
            "version": version("sgl-runtime"),
        }
        random = np.random.default_rng(0 if config.random_seed is None else config.random_seed)
        for batch_size, input_len, output_len in points(options):
            warm = min(output_len, _WARM_OUTPUT)
            engine.run(_requests(random, runner.capacity, batch_size, input_len, warm))
        if config.profile is not None:
            engine.leader.start_profile()
        for batch_size, input_len, output_len in points(options):
            requests = _requests(random, runner.capacity, batch_size, input_len, output_len)
            started, steps = engine.run(requests)
            measured = measure(started, steps, batch_size, input_len, output_len)
            tell(Point(run_name=options.run_name, **measured, **about))  # type: ignore[arg-type]
        if config.profile is not None:
            trace, table = engine.leader.stop_profile(Path(config.profile))
            tell(Profiled(str(trace), table))
    finally:
        answers.close()
        if followers is not None:
            followers.send(Halt())


def points(options: LatencyOptions) -> list[tuple[int, int, int]]:
    """(batch size, input length, output length) of every point."""
    return [
        (batch_size, input_len, output_len)
        for batch_size in options.batch_size
        for input_len in options.input_len
        for output_len in options.output_len
    ]


def check_room(options: LatencyOptions, capacity: Capacity) -> None:
    """Refuse a batch that would not run as one, and a model without tokens to time. Raises ConfigError."""
    if capacity.answers != "text":
        raise ConfigError(
            f"bench latency times the generation of text, and this model answers with {capacity.answers}",
            param="model_path",
        )
    if options.correctness_test:
        return
    for batch_size, input_len, output_len in points(options):
        each = input_len + output_len
        if each > capacity.context_length:
            raise ConfigError(
                f"--input-len {input_len} and --output-len {output_len} are {each} tokens, the context has "
                f"{capacity.context_length}"
            )
        if batch_size > capacity.rows:
            raise ConfigError(
                f"--batch-size {batch_size}: {capacity.rows} run at once; raise --max-running-requests"
            )
        if batch_size * each > capacity.slots:
            raise ConfigError(
                f"--batch-size {batch_size} of {each} tokens needs room for {batch_size * each}, and there "
                f"is room for {capacity.slots}: at most --batch-size {capacity.slots // each}, or more memory"
            )


def _requests(
    random: np.random.Generator, capacity: Capacity, batch_size: int, input_len: int, output_len: int
) -> list[Generate]:
    """Fresh random prompts: nothing of one point is known from another."""
    sampling = Sampling(max_new_tokens=output_len, temperature=0.0, ignore_eos=True)
    return [
        Generate(f"request{index}", random.integers(0, capacity.vocab_size, input_len).tolist(), sampling)
        for index in range(batch_size)
    ]


def measure(
    started: float,
    steps: Sequence[tuple[float, Sequence[Delta]]],
    batch_size: int,
    input_len: int,
    output_len: int,
) -> dict[str, object]:
    """The figures of Point that come from the clock.

    Prefill ends when the last request has its first token. From then on a step is what lies between two
    answers of the engine, in which every request got a token.
    """
    begun: set[str] = set()
    prefilled = started
    latencies: list[float] = []
    last = started
    for at, deltas in steps:
        grown = [delta.rid for delta in deltas if delta.tokens]
        if not grown:
            continue
        if len(begun) < batch_size:
            begun.update(grown)
            prefilled = at
        elif len(grown) == batch_size:
            latencies.append(at - last)
        last = at
    assert len(begun) == batch_size, "every request gets a token"
    decode = statistics.median(latencies) if latencies else None
    prefill, total = prefilled - started, last - started
    return {
        "batch_size": batch_size,
        "input_len": input_len,
        "output_len": output_len,
        "prefill_latency": prefill,
        "prefill_throughput": batch_size * input_len / prefill,
        "first_decode_latencies": latencies[:_FIRST_STEPS],
        "median_decode_latency": decode,
        "median_decode_throughput": None if decode is None else batch_size / decode,
        "decode_speed_per_request": None if decode is None else 1 / decode,
        "total_latency": total,
        "overall_throughput": batch_size * (input_len + output_len) / total,
    }
