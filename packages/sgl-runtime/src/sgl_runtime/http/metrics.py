# SPDX-License-Identifier: Apache-2.0
"""`GET /metrics`: figures of the client, loads of the replicas and the batches, in Prometheus' text format.

Nothing is counted here: what others count is named when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from sgl_runtime.engine.figures import Figures, Histogram
from sgl_runtime.http.api import Api
from sgl_runtime.http.openai.batches.tally import Tally
from sgl_runtime.http.operation import operation
from sgl_runtime.messages import Load

_GAUGES: dict[str, tuple[str, Callable[[Load], float]]] = {
    "num_requests_running": ("Requests being computed.", lambda load: load.running),
    "num_requests_waiting": ("Requests in the line, or waiting for a grammar.", lambda load: load.waiting),
    "kv_cache_usage_ratio": (
        "Share of the KV pool that running requests hold.",
        lambda load: load.slots_used / load.slots if load.slots else 0.0,
    ),
    "kv_cache_cached_ratio": (
        "Share of the KV pool that the prefix cache holds and gives up when asked.",
        lambda load: load.slots_cached / load.slots if load.slots else 0.0,
    ),
    "cache_hit_rate": (
        "Share of all prompt tokens since the start that the prefix cache had.",
        lambda load: load.cached_tokens / load.prompt_tokens if load.prompt_tokens else 0.0,
    ),
}
_NOT_ADDED = ("process_start_time_seconds", "process_max_fds")
_COUNTERS: dict[str, tuple[str, Callable[[Load], float]]] = {
    "prompt_tokens": ("Prompt tokens of admitted requests.", lambda load: load.prompt_tokens),
    "cached_prompt_tokens": ("Those that the prefix cache had.", lambda load: load.cached_tokens),
    "generation_tokens": ("Output tokens.", lambda load: load.generated_tokens),
    "forced_tokens": ("Output tokens that a grammar left no choice about.", lambda load: load.forced_tokens),
    "retractions": (
        "Running requests put back in the line for want of memory.",
        lambda load: load.retractions,
    ),
    "steps": ("Forward passes.", lambda load: load.steps),
    "grammars_compiled": ("Grammars compiled for masks.", lambda load: load.grammars_compiled),
    "grammars_failed": ("Grammars that did not compile.", lambda load: load.grammars_failed),
    "grammar_cache_hits": ("Constrained requests that found their grammar.", lambda load: load.grammar_hits),
    "grammar_compile_seconds": ("Time spent compiling grammars.", lambda load: load.grammar_seconds),
}


@operation(answers="text/plain")
async def metrics(api: Api, request: Request) -> Response:
    """The server's figures, in Prometheus' text format."""
    states = await api.client.states()
    figures = Figures()
    for state in states:
        figures.add(state.figures)
    registry = CollectorRegistry()
    registry.register(_Engine(figures, api.client.loads))
    registry.register(_Batches(api.storage.tally))
    registry.register(_Processes([state.pid for state in states]))
    return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})


class _Engine(Collector):
    def __init__(self, figures: Figures, loads: Sequence[Load]) -> None:
        self._figures = figures
        self._loads = loads

    def collect(self) -> Iterator[Metric]:
        figures = self._figures
        yield _histogram(
            "time_to_first_token_seconds", "From request to first token.", figures.time_to_first_token
        )
        yield _histogram(
            "inter_token_latency_seconds",
            "Between tokens of a sample; those told together share the time.",
            figures.inter_token,
        )
        yield _histogram("e2e_request_latency_seconds", "From request to the end.", figures.end_to_end)
        yield _histogram("request_queue_time_seconds", "In the line before being computed.", figures.queue)
        finished = CounterMetricFamily("sgl_requests", "Samples that have ended.", labels=["finish_reason"])
        for reason, count in figures.finished.items():
            finished.add_metric([reason], count)
        yield finished
        yield CounterMetricFamily(
            "sgl_requests_refused", "Requests turned away with 503.", value=figures.refused
        )
        for kind, family in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for name, (documentation, read) in family.items():
                metric = kind(f"sgl_{name}", documentation, labels=["replica"])
                for replica, load in enumerate(self._loads):
                    metric.add_metric([str(replica)], read(load))
                yield metric


class _Batches(Collector):
    """Of the one api process that keeps any."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        tally = self._tally
        lines = CounterMetricFamily("sgl_batch_lines", "Lines of batches answered.", labels=["outcome"])
        for outcome, count in tally.lines.items():
            lines.add_metric([outcome], count)
        yield lines
        ended = CounterMetricFamily("sgl_batches_ended", "Batches that have ended.", labels=["status"])
        for status, count in tally.ended.items():
            ended.add_metric([status], count)
        yield ended
        batches = GaugeMetricFamily("sgl_batches", "Batches that have not ended.", labels=["status"])
        for status, count in tally.open.items():
            batches.add_metric([status], count)
        yield batches
        yield GaugeMetricFamily("sgl_file_storage_bytes", "Bytes of all files.", value=tally.bytes)


class _Processes(Collector):
    """Memory, CPU and files of the api processes, added up; when the first began, what each may open."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        each = [ProcessCollector(pid=partial(int, pid), registry=None).collect() for pid in self._pids]
        for families in zip(*each, strict=True):
            join = min if families[0].name in _NOT_ADDED else sum
            value = join(family.samples[0].value for family in families)
            kind = CounterMetricFamily if families[0].type == "counter" else GaugeMetricFamily
            yield kind(families[0].name, families[0].documentation, value=value)


def _histogram(name: str, documentation: str, histogram: Histogram) -> HistogramMetricFamily:
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(f"sgl_{name}", documentation, buckets=buckets, sum_value=histogram.sum)
