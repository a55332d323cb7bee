# SPDX-License-Identifier: Apache-2.0
"""Kernels compiled before the first request: Triton compiles at the first launch, for up to seconds each.

Every kind of tile, of product and of draw is launched once, on tokens of nobody; what CUDA graphs launch is
compiled when they are captured. The draws, half of the work, are compiled side by side: the compiler leaves
Python while it works.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from sgl_kernels import PagedLayout, SamplingParameters, sample
from torch import Tensor

from sgl_runtime.messages import Masks, SamplingArrays
from sgl_runtime.runner.assemble import Pass, of_nobody
from sgl_runtime.runner.passes import Passes
from sgl_runtime.runner.sampler import Sampler

# (queries, tokens cached before them) of requests in one pass, in a page table of any width that holds them:
# tiles of every size, and few queries after a long prefix.
_PASSES = (((2, 0),), ((8, 0), (1, 9)), ((100, 0), (1, 9)), ((4, 2000), (1, 9)))
# Tokens of one prompt: the library has other products for other sizes, and loads each when it is first used.
_SIZES = (1100, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336)
_THREADS = 8
_ROWS = (1, 2, 3, 20)  # of logits: products of so few rows have kernels of their own
# temperature, top_k, top_p, min_p
_DRAWS = ((0.0, -1, 1.0, 0.0), (1.0, -1, 1.0, 0.0), (1.0, 50, 0.9, 0.0), (1.0, -1, 0.9, 0.05))


def warm(
    passes: Passes,
    answer: Callable[[Tensor], Tensor],
    sampler: Sampler | None,
    vocab_size: int,
    budget: int,
) -> None:
    """answer: of hidden states, the logits or what is pooled. sampler: of the rank that samples.
    budget: prompt tokens of one pass."""
    hidden = None
    for requests in (*_PASSES, *(((size, 0),) for size in _SIZES if size <= budget)):
        if max(q_len + cached for q_len, cached in requests) <= passes.rows.width:
            _, hidden = passes.run(_pass(passes, requests))
    if hidden is None:  # a page table of a few tokens
        return
    scores = hidden
    for rows in _ROWS:
        scores = answer(hidden[:1].expand(rows, -1).contiguous())
    if sampler is None:
        return
    rows = len(scores)
    everything = Masks(np.zeros(1, np.int32), [np.full(-(-vocab_size // 32), -1, np.int32)])
    sampler(scores, np.arange(rows, dtype=np.int32), sampling_arrays(rows, 0.0, biased=1), everything)
    if scores.is_cuda:
        _warm_draws([scores, scores.float()])  # with penalties, biases or masks they are float32


def _warm_draws(scores: list[Tensor]) -> None:
    stream = torch.cuda.current_stream()

    def draw(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
        m = len(logits)
        each = ([temperature] * m, [top_k] * m, [top_p] * m, [min_p] * m, [0] * m, [0] * m)
        with torch.inference_mode(), torch.cuda.stream(stream):  # which are a thread's own
            sample(logits, SamplingParameters.of(*each, logits.device))

    with ThreadPoolExecutor(_THREADS) as threads:
        drawn = [threads.submit(draw, logits, *kind) for kind in _DRAWS for logits in scores]
        for future in drawn:
            future.result()


def _pass(passes: Passes, requests: tuple[tuple[int, int], ...]) -> Pass:
    q_lens = tuple(q_len for q_len, _ in requests)
    ids = np.empty((4, sum(q_lens)), np.int32)
    of_nobody(ids, passes.rows)
    kv_lens = tuple(q_len + cached for q_len, cached in requests)
    return Pass(ids, PagedLayout(passes.rows.table, q_lens, kv_lens, (0,) * len(q_lens)), None)


def sampling_arrays(
    m: int, temperature: float, top_k: int = -1, top_p: float = 1.0, min_p: float = 0.0, *, biased: int = 0
) -> SamplingArrays:
    """For m rows alike; `biased`: of so many of them a token's logit is raised by nothing."""
    zeros = np.zeros(m, np.float32)
    index = np.arange(biased, dtype=np.int32)
    return SamplingArrays(
        temperature=np.full(m, temperature, np.float32),
        top_p=np.full(m, top_p, np.float32),
        top_k=np.full(m, top_k, np.int32),
        min_p=np.full(m, min_p, np.float32),
        frequency_penalty=zeros,
        presence_penalty=zeros,
        repetition_penalty=np.ones(m, np.float32),
        seeds=np.zeros(m, np.int64),
        steps=np.zeros(m, np.int32),
        bias_rows=index,
        bias_tokens=np.zeros_like(index),
        bias_values=np.zeros(biased, np.float32),
    )
