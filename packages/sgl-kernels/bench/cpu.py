# SPDX-License-Identifier: Apache-2.0
"""Microseconds of every operation on a CPU, at the shapes of SmolLM2-135M: `python bench/cpu.py [threads]`.

Of many calls the fastest, and the median of what they cost the process. On a machine that does other things,
too, only the second means anything for calls of milliseconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import numpy as np
import torch

from sgl_kernels import (
    AttentionSpec,
    PagedLayout,
    SamplingParameters,
    apply_penalties,
    apply_rope,
    fused_add_rms_norm,
    load_attention,
    logprobs_of_logits,
    rms_norm,
    rope_frequencies,
    rope_table,
    sample,
    silu_and_mul,
    store_kv,
)

HEADS, KV_HEADS, DIM, HIDDEN, WIDTH, VOCABULARY = 9, 3, 64, 576, 1536, 49152
SLOTS = 40000
SECONDS = 0.4  # for each line of the table

Case = tuple[str, str, Callable[[], object]]


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'operation':<22}{'shape':<34}{'fastest us':>12}{'CPU us':>12}")
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float32):
            print(str(dtype))
            for cases in (layer_cases(dtype), attention_cases(dtype)):
                for case in cases:
                    report(*case)
        print("sampling and log-probabilities, float32")
        for case in sampling_cases():
            report(*case)


def report(operation: str, shape: str, call: Callable[[], object]) -> None:
    for _ in range(3):
        call()
    walls: list[float] = []
    costs: list[float] = []
    end = time.perf_counter() + SECONDS
    while not walls or time.perf_counter() < end:
        start, cost = time.perf_counter(), time.process_time()
        call()
        costs.append((time.process_time() - cost) * 1e6)
        walls.append((time.perf_counter() - start) * 1e6)
    print(f"{operation:<22}{shape:<34}{min(walls):>12.1f}{median(costs):>12.1f}", flush=True)


def layer_cases(dtype: torch.dtype) -> Iterator[Case]:
    frequencies, factor = rope_frequencies(DIM, 1e5, None, 8192)
    cos, sin = rope_table(frequencies, factor, 8192, dtype=dtype)
    k_cache, v_cache = torch.zeros(2, SLOTS, KV_HEADS, DIM, dtype=dtype)
    weight = torch.ones(HIDDEN, dtype=dtype)
    for tokens in (1, 32, 512):
        shape = f"{tokens} tokens"
        x, residual = torch.randn(2, tokens, HIDDEN).to(dtype)
        gate_up = torch.randn(tokens, 2 * WIDTH).to(dtype)
        qkv = torch.randn(tokens, HEADS + 2 * KV_HEADS, DIM).to(dtype)
        q, k, v = qkv[:, :HEADS], qkv[:, HEADS : HEADS + KV_HEADS], qkv[:, HEADS + KV_HEADS :]
        slots = torch.arange(tokens) + 77
        yield "rms_norm", shape, partial(rms_norm, x, weight, 1e-5)
        yield "fused_add_rms_norm", shape, partial(fused_add_rms_norm, x * 0, residual, weight, 1e-5)
        yield "silu_and_mul", shape, partial(silu_and_mul, gate_up)
        yield "apply_rope", shape, partial(apply_rope, q, k, cos[:tokens], sin[:tokens])
        yield "store_kv", shape, partial(store_kv, k, v, k_cache, v_cache, slots)


def attention_cases(dtype: torch.dtype) -> Iterator[Case]:
    spec = AttentionSpec(HEADS, KV_HEADS, DIM, DIM, DIM**-0.5)
    backend = load_attention("reference", [spec], torch.device("cpu"))
    k_cache, v_cache = torch.randn(2, SLOTS, KV_HEADS, DIM).to(dtype)
    spread_out = [100 + 500 * i // 31 for i in range(32)]
    batches: list[tuple[str, Sequence[int], Sequence[int], bool]] = [
        ("1 row, 300 kv, a run of slots", [1], [300], False),
        ("1 row, 300 kv", [1], [300], True),
        ("1 row, 2000 kv", [1], [2000], True),
        ("32 rows, 100-600 kv", [1] * 32, spread_out, True),
        ("32 rows, 300-331 kv", [1] * 32, range(300, 332), True),
        ("prompt of 512", [512], [512], True),
        ("prompt of 2048", [2048], [2048], True),
        ("64 after 2000 cached", [64], [2064], True),
        ("31 rows and a prompt of 128", [1] * 31 + [128], [300] * 31 + [128], True),
    ]
    for shape, q_lens, kv_lens, shuffled in batches:
        total = sum(kv_lens)
        layout = PagedLayout(
            (torch.randperm(SLOTS)[:total] if shuffled else torch.arange(total)).int(),
            tuple(q_lens),
            tuple(kv_lens),
        )
        q = torch.randn(sum(q_lens), HEADS + 2 * KV_HEADS, DIM).to(dtype)[:, :HEADS]
        plan = backend.plan(layout, spec)
        yield "attention.plan", shape, partial(backend.plan, layout, spec)
        yield "attention.run", shape, partial(backend.run, plan, q, k_cache, v_cache)


def sampling_cases() -> Iterator[Case]:
    for rows in (1, 32):
        logits = torch.randn(rows, VOCABULARY) * 6
        counts = torch.zeros(rows, VOCABULARY, dtype=torch.int32)
        counts[:, :300] = 2
        for shape, temperature, top_k, top_p, min_p in (
            ("greedy", 0.0, -1, 1.0, 0.0),
            ("temperature", 1.0, -1, 1.0, 0.0),
            ("temperature, min_p 0.05", 1.0, -1, 1.0, 0.05),
            ("top_k 50", 1.0, 50, 1.0, 0.0),
            ("top_p 0.9", 1.0, -1, 0.9, 0.0),
        ):
            columns = [np.full(rows, value) for value in (temperature, top_k, top_p, min_p, 7, 0)]
            parameters = SamplingParameters.of(*columns)
            yield "sample", f"{rows} rows, {shape}", partial(sample, logits, parameters)
        none, some = torch.zeros(rows), torch.full((rows,), 1.1)
        penalise = partial(apply_penalties, frequency=none, presence=none, repetition=some)
        shape = f"{rows} rows, 300 seen tokens"
        yield "apply_penalties", shape, partial(penalise, logits, counts, counts > 5)
        shape = f"{rows} rows, top 5"
        yield "logprobs_of_logits", shape, partial(logprobs_of_logits, logits, torch.arange(rows), 5)


if __name__ == "__main__":
    main()
