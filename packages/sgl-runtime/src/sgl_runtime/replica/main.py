# SPDX-License-Identifier: Apache-2.0
"""Entry point of every compute process: build this rank's runner, say Ready, then lead or follow.

Knows both sides, scheduler and runner; they do not know each other. Start-up is timed phase by phase.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Never

import torch
from tqdm import tqdm

from sgl_runtime import log
from sgl_runtime.cache.prefix import NoCache, PrefixCache
from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.channel import Fanout, Pull, Push, Tap
from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.config import ServeConfig, prefill_limits
from sgl_runtime.messages import Capacity, Ready, ToFollower, ToReplica
from sgl_runtime.parallel.rendezvous import choose_device, join
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.process import ChildPipe
from sgl_runtime.replica.device_clock import DeviceClock
from sgl_runtime.replica.follower import follow
from sgl_runtime.replica.leader import Leader
from sgl_runtime.replica.outboxes import Outboxes
from sgl_runtime.replica.watchdog import Watchdog, end
from sgl_runtime.runner.runner import Runner
from sgl_runtime.scheduler.constraint import Encode, Grammars
from sgl_runtime.scheduler.scheduler import Scheduler
from sgl_runtime.scheduler.stop import TokenBytes
from sgl_runtime.spare import give_back, settle
from sgl_runtime.text.constraints import compile_constraint, token_compiler
from sgl_runtime.text.tokenizer import load_tokenizer

_logger = log.logger(__name__)
FOLLOWERS_CONNECT_S = 120.0


class Phases:
    """Seconds of each start-up phase, in order."""

    def __init__(self, started: float) -> None:
        self.seconds: dict[str, float] = {}
        self._last = started

    def end(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = now - self._last
        self._last = now


def run(
    pipe: ChildPipe,
    *,
    config: ServeConfig,
    model: ModelConfig,
    path: Path,
    replica: int,
    rank: int,
    rendezvous: str | None,
    leader: str,
    inbox: str,
    outboxes: list[str],
    launched_at: float,
) -> None:
    """Serve as `rank` of the `replica`-th replica until terminated.

    `rendezvous` is the address of the ranks' process group (None with one rank), `leader` that of the Fanout,
    `inbox` that of the channel from the api processes, `outboxes` those to each of them; `launched_at` is the
    launcher's time.monotonic() when it started this process.
    """
    phases = Phases(launched_at)
    runner, tp = make_runner(config, model, path, phases, replica=replica, rank=rank, rendezvous=rendezvous)
    if rank > 0:
        tap: Tap[ToFollower] = Tap(leader, ToFollower)
        settle()
        pipe.ready(Ready(seconds=phases.seconds))
        follow(runner, tap)
        return
    scheduler = _scheduler(config, model, path, runner.capacity, tp.device.type)
    phases.end("vocabulary")
    fanout = None
    if tp.size > 1:
        fanout = Fanout(leader)
        fanout.gather(tp.size - 1, seconds=FOLLOWERS_CONNECT_S)
    requests: Pull[ToReplica] = Pull(inbox, ToReplica)
    overlap = runner.asynchronous and not config.disable_overlap
    lead = Leader(
        scheduler,
        runner,
        requests,
        Push(outboxes[0]) if len(outboxes) == 1 else Outboxes([Push(address) for address in outboxes]),
        replica=replica,
        followers=fanout,
        overlap=overlap,
        clock=partial(DeviceClock, runner) if runner.asynchronous else None,
        rest=give_back,
    )
    if config.profile is not None:
        lead.start_profile()
    settle()
    pipe.ready(Ready(runner.capacity, phases.seconds))
    if config.watchdog_timeout:
        Watchdog(lambda: lead.turns, seconds=config.watchdog_timeout, hung=partial(end, pipe)).start()
    lead.run()


def make_runner(
    config: ServeConfig,
    model: ModelConfig,
    path: Path,
    phases: Phases,
    *,
    replica: int,
    rank: int,
    rendezvous: str | None,
) -> tuple[Runner, TensorParallel]:
    """This rank's runner, ready for a first batch, and its place among the ranks, which meet at `rendezvous`.

    Raises ConfigError.
    """
    phases.end("python and torch")
    device = choose_device(config.device, replica * config.tensor_parallel_size + rank)
    if device.type == "cpu":
        # The ranks of a computer share its cores: more threads than cores wait for each other.
        ranks = config.tensor_parallel_size * config.data_parallel_size
        torch.set_num_threads(max(1, torch.get_num_threads() // ranks))
    if rendezvous is None:
        tp = TensorParallel.alone(device)
    else:
        tp = join(rendezvous, rank, config.tensor_parallel_size, device)
    phases.end("process group")
    # Its own lock is a semaphore of the system, which a killed process leaves behind.
    tqdm.set_lock(threading.RLock())
    silent = True if rank > 0 else None  # None: unless a person looks on; a log's disk may be full
    with tqdm(desc="loading weights", unit=" tensors", disable=silent, leave=False) as bar:
        runner = Runner(config, model, path, tp, progress=lambda done, total: _advance(bar, done, total))
    phases.end("weights and KV pool")
    silent = silent or (True if device.type == "cpu" else None)
    with tqdm(desc="capturing CUDA graphs", disable=silent, leave=False) as bar:
        spent = runner.prepare(lambda done, total: _advance(bar, done, total))
    if device.type == "cuda":
        phases.end("CUDA graphs")
        _logger.info("memory of %s:\n%s", device, spent.table())
    return runner, tp


def _advance(bar: tqdm[Never], done: int, total: int) -> None:
    bar.total = total
    bar.update(done - bar.n)


def _scheduler(
    config: ServeConfig, model: ModelConfig, path: Path, capacity: Capacity, kind: str
) -> Scheduler:
    tokenizer = grammars = encode = None
    if capacity.answers == "text" and not config.skip_tokenizer_init:
        tokenizer = load_tokenizer(Path(config.tokenizer_path or path))
    if tokenizer is not None:
        compiler = token_compiler(tokenizer, eos=model.eos, vocab_size=capacity.vocab_size)
        grammars = Grammars(partial(compile_constraint, compiler))
        encode = tokenizer.encode_part
    return make_scheduler(
        config,
        capacity,
        kind,
        NoCache() if config.disable_radix_cache else RadixCache(),
        eos=model.eos,
        vocabulary=None if tokenizer is None else tokenizer.vocabulary,
        grammars=grammars,
        encode=encode,
    )


def make_scheduler(
    config: ServeConfig,
    capacity: Capacity,
    kind: str,
    cache: PrefixCache,
    *,
    eos: Collection[int] = (),
    vocabulary: TokenBytes | None = None,
    grammars: Grammars | None = None,
    encode: Encode | None = None,
) -> Scheduler:
    """A scheduler as `config` asks for a device of this kind, "cpu" or "cuda"; the others as of Scheduler."""
    limits = prefill_limits(config, kind)
    return Scheduler(
        capacity,
        cache,
        eos=eos,
        vocabulary=vocabulary,
        grammars=grammars,
        encode=encode,
        disable_regex_jump_forward=config.disable_regex_jump_forward,
        chunked_prefill_size=limits.chunk,
        max_prefill_tokens=limits.budget,
        enable_mixed_chunk=not config.disable_mixed_chunk,
        # Attention on a CPU reads every row by itself; elsewhere merging costs as much as a shorter prefix.
        shared_least=64 if kind == "cuda" else None,
        schedule_policy=config.schedule_policy,
        schedule_conservativeness=config.schedule_conservativeness,
        max_queued_requests=config.max_queued_requests,
        seed=secrets.randbits(32) if config.random_seed is None else config.random_seed,
    )
