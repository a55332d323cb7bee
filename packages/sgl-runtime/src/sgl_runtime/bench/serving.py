# SPDX-License-Identifier: Apache-2.0
"""`sgl-runtime bench serving`: how a running server answers a load, over HTTP. No torch.

One run for each rate or workload, each with requests that the server has not seen; then one JSON line and one
text for each.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from sgl_runtime.bench import plot, records
from sgl_runtime.bench.client import Client, Outcome, check_client, connect
from sgl_runtime.bench.datasets import MAKERS, read_sharegpt, sharegpt
from sgl_runtime.bench.measure import Figures, describe, measure
from sgl_runtime.bench.options import ServingOptions
from sgl_runtime.bench.protocols import Api, protocol
from sgl_runtime.bench.requests import Load, Request, arriving
from sgl_runtime.bench.target import Target, find_target
from sgl_runtime.bench.workloads import WORKLOADS, workload
from sgl_runtime.config import Environment, flags_given
from sgl_runtime.errors import ConfigError

_DEFAULT_RANGE = "2,34,2"
_WARM_INPUT, _WARM_OUTPUT = 64, 16  # tokens
# Sizes, and the data sets that look at each; by any other a flag would be ignored.
_SIZES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sharegpt_output_len": ("sharegpt",),
        "random_input_len": ("random", "multi-turn"),
        "random_output_len": ("random", "shared-prefix", "multi-turn"),
        "random_range_ratio": ("random",),
        "num_prefixes": ("shared-prefix",),
        "prefix_len": ("shared-prefix",),
        "unique_len": ("shared-prefix",),
        "turns": ("multi-turn",),
        "turn_len": ("multi-turn",),
    }
)
# What a workload decides.
_OF_DATA_SETS = (
    "dataset_name", "dataset_path", "num_prompts", "request_rate", "multi", "request_rate_range", *_SIZES,
)  # fmt: skip


def run(options: ServingOptions, announce: Callable[[str], None]) -> None:
    """Measure; `announce` gets the text for a person.

    Raises ConfigError for what cannot be run as asked, EngineDied when no request of a run is answered.
    """
    check_client()
    plot.check_plot(options.graph_filename)
    records.check_file(options.output_file, "--output-file")
    records.check_file(options.graph_filename, "--graph-filename")
    api, port = protocol(options.backend)
    runs = _runs(options)
    extra = _extra(options)
    _raise_file_limit()
    base = _base(options, port)
    figures = asyncio.run(_measure(options, api, base, runs, extra, announce))
    if options.graph_filename is not None:
        plot.draw(options.graph_filename, list(_panels(figures)))
        announce(f"drawn: {options.graph_filename}")


def _base(options: ServingOptions, port: int) -> str:
    """What stands before every path. On a Unix socket the host is a word that nobody looks up.

    Raises ConfigError for two places at once.
    """
    if options.base_url is not None and (given := flags_given(options, ("host", "port", "uds"))):
        raise ConfigError(f"{given[0]} and --base-url both say where the server listens: drop one")
    if options.uds is not None and (given := flags_given(options, ("host", "port"))):
        raise ConfigError(f"{given[0]} and --uds both say where the server listens: drop one")
    address = "localhost" if options.uds is not None else f"{options.host}:{options.port or port}"
    return (options.base_url or f"http://{address}").rstrip("/").removesuffix("/v1")


async def _measure(
    options: ServingOptions,
    api: Api,
    base: str,
    runs: list[tuple[str, float]],
    extra: Mapping[str, Any],
    announce: Callable[[str], None],
) -> list[tuple[str, Figures]]:
    found = []
    key = options.api_key or Environment.read().openai_api_key
    place = base if options.uds is None else f"unix:{options.uds}"
    async with connect(key, options.timeout, options.uds) as session:
        target = await find_target(session, options, api, base)
        client = Client(session, base, api, target.model, extra=extra, stream=not options.disable_stream)
        await _warm(client, target, options)
        for name, rate in runs:
            load = _load(options, target, name, rate)
            outcomes = await drive(client, load, options.max_concurrency, quiet=options.disable_tqdm)
            figures = measure(outcomes, target.tokenizer)
            row = {**_about(options, target, load, rate), **figures.row}
            title = load.name + (f" at {rate:g} requests/s" if math.isfinite(rate) else "")
            announce(describe(f"{title}, {target.model} by {options.backend} at {place}", row) + "\n")
            if options.output_file is not None:
                records.append(options.output_file, [row])
            found.append((title, figures))
    return found


async def drive(client: Client, load: Load, max_concurrency: int | None, *, quiet: bool) -> list[Outcome]:
    """Send the load as it says; what became of every request, conversation after conversation."""
    slots = asyncio.Semaphore(max_concurrency) if max_concurrency is not None else None
    outcomes: list[list[Outcome]] = []
    with tqdm(total=load.size, desc=load.name, unit=" requests", disable=quiet) as bar:
        wave = load.wave or len(load.conversations)
        for first in range(0, len(load.conversations), wave):
            chosen = range(first, min(first + wave, len(load.conversations)))
            started = time.perf_counter()
            outcomes += await asyncio.gather(
                *(_talk(client, load, index, started, slots, bar) for index in chosen)
            )
    return [outcome for talk in outcomes for outcome in talk]


async def _talk(
    client: Client,
    load: Load,
    index: int,
    started: float,
    slots: asyncio.Semaphore | None,
    bar: tqdm[Any],
) -> list[Outcome]:
    """One conversation; a turn that fails ends it, and the turns after it fail with it."""
    await asyncio.sleep(max(0.0, started + load.arrivals[index] - time.perf_counter()))
    outcomes: list[Outcome] = []
    for request in load.conversations[index]:
        if outcomes and outcomes[-1].error:
            outcomes.append(Outcome(request.output_len, error="the turn before it failed"))
        elif slots is None:
            outcomes.append(await client.send(request, stream=load.stream))
        else:
            async with slots:
                outcomes.append(await client.send(request, stream=load.stream))
        bar.update()
    return outcomes


async def _warm(client: Client, target: Target, options: ServingOptions) -> None:
    """The first requests of a server's life are slow, and a server that refuses them refuses all."""
    rng = random.Random(f"{options.seed}/warm-up")
    for _ in range(options.warmup_requests):
        prompt = target.vocabulary.ids(rng, _WARM_INPUT)
        request = Request(target.prompt(prompt), _WARM_OUTPUT, ignore_eos=not options.disable_ignore_eos)
        outcome = await client.send(request, stream=True)
        if outcome.error:
            raise ConfigError(f"the server does not answer a first request: {outcome.error}")


def _runs(options: ServingOptions) -> list[tuple[str, float]]:
    """(workload or data set, request rate) of every run. Raises ConfigError for flags that contradict."""
    if options.workloads is not None:
        if given := flags_given(options, _OF_DATA_SETS):
            raise ConfigError(f"{given[0]}: a workload is fixed; drop it, or --workloads")
        names = list(WORKLOADS) if "all" in options.workloads else list(options.workloads)
        return [(name, math.inf) for name in names]
    name = options.dataset_name or ("sharegpt" if options.dataset_path is not None else "chat")
    if (name == "sharegpt") != (options.dataset_path is not None):
        remedy = "drop it" if options.dataset_path is not None else "give a ShareGPT file with --dataset-path"
        raise ConfigError(f"--dataset-name {name} and --dataset-path do not go together so: {remedy}")
    for size, data_sets in _SIZES.items():
        if name not in data_sets and (given := flags_given(options, [size])):
            suits = " or ".join(data_sets)
            raise ConfigError(f"{given[0]}: the data set {name} has no such size; drop it, or use {suits}")
    if options.request_rate_range is None and not options.multi:
        return [(name, options.request_rate)]
    if math.isfinite(options.request_rate):
        raise ConfigError("--request-rate and --multi both say at what rate: drop one")
    return [(name, float(rate)) for rate in _range(options.request_rate_range or _DEFAULT_RANGE)]


def _range(text: str) -> range:
    try:
        first, end, step = (int(part) for part in text.split(","))
        rates = range(first, end, step)
    except ValueError:
        rates = range(0)
    if not rates or min(rates) < 1:
        raise ConfigError(f"--request-rate-range {text}: expected first, end and step as {_DEFAULT_RANGE}")
    return rates


def _extra(options: ServingOptions) -> dict[str, Any]:
    if options.extra_request_body is None:
        return {}
    try:
        extra = json.loads(options.extra_request_body)
    except ValueError as error:
        raise ConfigError(f"--extra-request-body is not JSON: {error}") from None
    if not isinstance(extra, dict):
        raise ConfigError("--extra-request-body must be a JSON object")
    return extra


def _load(options: ServingOptions, target: Target, name: str, rate: float) -> Load:
    """What is sent in one run; runs of other rates get other prompts."""
    if name in WORKLOADS:
        load = workload(name, options.seed, target.vocabulary)
    else:
        suffix = f"/{rate:g}" if math.isfinite(rate) else ""
        rng = random.Random(f"{options.seed}/{name}{suffix}")
        if name == "sharegpt":
            assert options.dataset_path is not None and target.tokenizer is not None
            made = sharegpt(rng, target.tokenizer, options, read_sharegpt(options.dataset_path))
        else:
            made = MAKERS[name](rng, target.vocabulary, options)
        load = arriving(name, made, rng, rate, stream=True)
    return target.spoken(load, ignore_eos=not options.disable_ignore_eos)


def _about(options: ServingOptions, target: Target, load: Load, rate: float) -> dict[str, Any]:
    """What the figures are of."""
    return {
        "label": options.label,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "version": version("sgl-runtime"),
        "backend": options.backend,
        "model": target.model,
        "dataset_name": load.name,
        "request_rate": rate if math.isfinite(rate) else "inf",
        "max_concurrency": options.max_concurrency,
        "num_prompts": load.size,
        "seed": options.seed,
        "stream": load.stream and not options.disable_stream,
        "sharegpt_output_len": options.sharegpt_output_len,
        "random_input_len": options.random_input_len,
        "random_output_len": options.random_output_len,
        "random_range_ratio": options.random_range_ratio,
    }


def _panels(found: list[tuple[str, Figures]]) -> Iterator[plot.Panel]:
    titles = {"ttft": "time to first token", "tpot": "time per output token", "e2e_latency": "whole answer"}
    for name, title in titles.items():
        lines = [plot.distribution(run, f.latencies[name]) for run, f in found if f.latencies[name]]
        yield plot.Panel(title, "milliseconds", "share of requests", lines, marks=False)


def _raise_file_limit() -> None:
    """A connection is an open file, and the soft limit is often 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
