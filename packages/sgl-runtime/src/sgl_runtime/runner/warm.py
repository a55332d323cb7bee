# SPDX-License-Identifier: Apache-2.0
"""Kernels compiled before anything is measured: Triton compiles at the first launch, for up to seconds each.

Every kind of tile, of product and of draw is launched once, on tokens of nobody, and what CUDA graphs launch
is among them. The launches come from threads: the compiler leaves Python while it works, so an empty cache is
filled side by side. What two threads need at once is compiled by one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module

import numpy as np
import torch
from msgspec.structs import replace
from sgl_kernels import PagedLayout, SamplingParameters, available, logprobs_of_logits, sample
from torch import Tensor

from sgl_runtime.messages import History, Masks, SamplingArrays
from sgl_runtime.runner.assemble import Pass, of_nobody
from sgl_runtime.runner.passes import Passes
from sgl_runtime.runner.sampler import Sampler
from sgl_runtime.runner.stream import on_stream

# (queries, tokens cached before them) of requests in one pass: tiles of every size, few queries after a long
# prefix, more than a graph is for, also beside many short ones; and products of every size.
_PASSES = (
    ((100, 0), (1, 9)),
    ((4, 2000), (1, 9)),
    ((8, 0), (1, 9)),
    ((2, 0),),
    ((20, 0),),
    ((1100, 0),),
    ((1600, 0), *[(2, 0)] * 13),
)
# Tokens of one prompt: the library has other products for other sizes, and loads each when it is first used.
_SIZES = (1536, 2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336)
ROWS, WIDTH = 2, max(_SIZES)  # of a page table that holds all of these
_THREADS = 16
_LOGITS = (1, 2, 3, 20)  # rows of logits: products of few have kernels of their own
# temperature, top_k, top_p, min_p
_GREEDY = (0.0, -1, 1.0, 0.0)
_DRAWS = ((1.0, -1, 0.9, 0.05), (1.0, 50, 0.9, 0.0), (1.0, -1, 1.0, 0.0), _GREEDY)


def warm(
    passes: Passes,
    answer: Callable[[Tensor], Tensor],
    hidden: Tensor,
    sampler: Sampler | None,
    budget: int,
    *,
    in_order: bool,
) -> None:
    """passes: over a page table of `ROWS` and `WIDTH` and a KV pool of one slot. answer: of hidden states,
    the logits or what is pooled. hidden [1, hidden size]: any. sampler: of the rank that samples. budget:
    prompt tokens of one pass. in_order: passes may not run side by side, since other ranks take part in them
    or torch.compile traces them.
    """
    draws: list[Callable[[], object]] = []
    models: list[Callable[[], object]] = [
        *(partial(passes.run, _pass(passes, requests)) for requests in _PASSES),
        *(partial(answer, hidden.expand(rows, -1).contiguous()) for rows in _LOGITS),
    ]
    answers = answer(hidden.expand(max(_LOGITS), -1).contiguous())
    if sampler is not None:
        _draw(answers, *_GREEDY)  # alone: the first launch makes Triton's driver
        # With penalties, biases or masks, logits are float32.
        draws = [partial(_draw, logits, *kind) for kind in _DRAWS for logits in (answers.float(), answers)]
        draws.append(partial(_draw_altered, sampler, answers))
        # Tokens that were sampled, and those of prompts.
        draws += [partial(_report, answers, kind) for kind in (torch.int32, torch.int64)]
    ordered = in_order or not draws
    _side_by_side(draws if ordered else [*models, *draws], meanwhile=models if ordered else ())
    _in_turn([partial(passes.run, _pass(passes, ((size, 0),))) for size in _SIZES if size <= budget])


def _side_by_side(
    launches: Sequence[Callable[[], object]], *, meanwhile: Sequence[Callable[[], object]]
) -> None:
    """meanwhile: launches of this thread, in turn. Raises what the first of either raises that does."""
    stream = torch.cuda.current_stream() if torch.cuda.is_available() else None
    size = min(_THREADS, os.cpu_count() or 1)

    def launch(one: Callable[[], object]) -> None:
        with torch.inference_mode(), on_stream(stream):  # which are a thread's own
            one()

    with ThreadPoolExecutor(size) as compilers:
        compiling: AbstractContextManager[object] = nullcontext()
        if available()["triton"].usable:
            compiling = import_module("triton").AsyncCompileMode(compilers)
        begin = partial(_begin, stream, compiling)
        with ThreadPoolExecutor(size, initializer=begin) as threads:
            launched = [threads.submit(launch, one) for one in launches]
            _in_turn(meanwhile)
            for each in launched:
                each.result()


def _begin(stream: torch.cuda.Stream | None, compiling: AbstractContextManager[object]) -> None:
    """In every thread: whoever launches a kernel that another one is compiling waits for that."""
    compiling.__enter__()  # for as long as the thread lives
    if stream is not None:
        stream.query()  # makes the device's context this thread's, of whose absence libraries warn


def _in_turn(launches: Sequence[Callable[[], object]]) -> None:
    for one in launches:
        one()


def _draw(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    m = len(logits)
    each = ([temperature] * m, [top_k] * m, [top_p] * m, [min_p] * m, [0] * m, [0] * m)
    sample(logits, SamplingParameters.of(*each, logits.device))


def _draw_altered(sampler: Sampler, logits: Tensor) -> None:
    """With a bias, a penalty for the first row, and a mask that forbids nothing."""
    rows, words = len(logits), -(-logits.shape[1] // 32)
    everything = Masks(np.zeros(1, np.int32), [np.full(words, -1, np.int32)])
    nothing = np.zeros(0, np.int32)
    altered = replace(
        sampling_arrays(rows, 0.0, biased=1),
        presence_penalty=np.array([1.0, *[0.0] * (rows - 1)], np.float32),
        histories=(History(row=0, prompt=nothing, output=nothing),),
    )
    sampler.begin(altered)
    sampler(logits, np.arange(rows, dtype=np.int32), altered, everything)


def _report(logits: Tensor, kind: torch.dtype) -> None:
    logprobs_of_logits(logits, torch.zeros(len(logits), dtype=kind, device=logits.device), top=1)


def _pass(passes: Passes, requests: tuple[tuple[int, int], ...]) -> Pass:
    q_lens = tuple(q_len for q_len, _ in requests)
    ids = np.empty((4, sum(q_lens)), np.int32)
    of_nobody(ids, passes.rows)
    kv_lens = tuple(q_len + cached for q_len, cached in requests)
    last = np.cumsum(q_lens, dtype=np.int32) - 1
    return Pass(ids, PagedLayout(passes.rows.table, q_lens, kv_lens, (0,) * len(q_lens)), last, last)


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
