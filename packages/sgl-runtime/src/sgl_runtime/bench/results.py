# SPDX-License-Identifier: Apache-2.0
"""What the process that computes a static batch tells the one that asked for it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Point(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One batch. Latencies are seconds, throughputs tokens a second of all requests together.

    A field is one of the JSON line's.
    """

    run_name: str
    batch_size: int
    input_len: int
    output_len: int
    prefill_latency: float  # until every request has its first token
    prefill_throughput: float  # prompt tokens over that
    first_decode_latencies: list[float]  # of the first steps
    median_decode_latency: float | None  # of one step; None: output_len is 1
    median_decode_throughput: float | None
    decode_speed_per_request: float | None  # tokens a second of one request
    total_latency: float
    overall_throughput: float  # prompt and output tokens over that
    model: str
    device: str
    dtype: str
    tensor_parallel_size: int
    attention_backend: str
    version: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One prompt of the correctness test."""

    prompt: str
    cached: int  # tokens of the prompt that came from the cache
    whole: list[tuple[int, float]]  # the most likely first tokens with their log-probabilities
    after_cache: list[tuple[int, float]]
    difference: float | None  # the largest between log-probabilities of a token in both; None: no such token
    tolerance: float
    tokens_whole: list[int]
    tokens_after_cache: list[int]
    text: str

    @property
    def agrees(self) -> bool:
        return self.difference is not None and self.difference <= self.tolerance


class Profiled(msgspec.Struct, frozen=True, tag=True):
    """Where `--profile` has written, and its table."""

    trace: str
    table: str


Answer: TypeAlias = Point | Comparison | Profiled
