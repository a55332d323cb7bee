# SPDX-License-Identifier: Apache-2.0
"""How much memory a step takes for itself, found by computing the largest one before the KV pool exists.

The pass has as many prompt tokens as the scheduler will ever put together, and its logits as many rows as
there can be requests. On a CPU, whose memory nobody shares out to the last byte, nothing is measured.
"""

from __future__ import annotations

import numpy as np
import torch
from sgl_kernels import AttentionBackend

from sgl_runtime.config import ServeConfig, prefill_limits
from sgl_runtime.layers import KVPool
from sgl_runtime.messages import Batch
from sgl_runtime.models.base import Model
from sgl_runtime.runner.assemble import Rows, describe
from sgl_runtime.runner.memory import rows_at_once
from sgl_runtime.runner.passes import Passes
from sgl_runtime.runner.sampler import Sampler
from sgl_runtime.runner.warm import sampling_arrays

_SLACK = 1.1  # memory in pieces that fit nothing
_GRAPHS = 1 << 30  # for CUDA graphs and for what libraries take at their first use


def measure_reserve(
    config: ServeConfig,
    model: Model,
    attention: AttentionBackend,
    cached: torch.dtype,
    context_length: int,
    sampler: Sampler,
    device: torch.device,
) -> int:
    """Bytes beside weights and KV pool; they are free again afterwards, and the kernels of prompts warm."""
    if device.type != "cuda":
        return 0
    limits = prefill_limits(config, device.type)
    tokens = limits.budget if limits.chunk > 0 else max(limits.budget, context_length)
    # What decodes beside the prompts takes little of that step, and has no logits at the same time.
    requests = _requests(tokens, min(context_length, tokens))
    specs = model.attention_specs()
    kv = KVPool(specs, tokens, cached, device)
    rows = Rows(len(requests), min(context_length, tokens), device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    _, hidden = Passes(model, rows, kv, attention, specs).run(describe(_prompts(requests), rows))
    last = hidden[:1].expand(min(tokens, rows_at_once(config, device.type)), -1).contiguous()
    if model.answers == "text":
        arrays = sampling_arrays(len(last), 1.0, biased=1)
        sampler(model.logits(last), np.arange(len(last), dtype=np.int32), arrays)
    peak = torch.cuda.max_memory_allocated(device) - before
    del kv, rows, hidden, last
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return int(peak * _SLACK) + _GRAPHS


def _requests(tokens: int, longest: int) -> list[int]:
    """Lengths of prompts that have so many tokens together."""
    return [longest] * (tokens // longest) + [tokens % longest] * (tokens % longest > 0)


def _prompts(lengths: list[int]) -> Batch:
    """A pass that computes prompts of these lengths and samples nothing."""
    q_lens, slots = np.array(lengths, np.int32), np.arange(sum(lengths), dtype=np.int32)
    return Batch(
        rows=np.arange(len(lengths), dtype=np.int32),
        q_lens=q_lens,
        kv_lens=q_lens,
        tokens=np.zeros_like(slots),
        slots=slots,
        prefixes=(),
        sampled=np.empty(0, np.int32),
        sampling=sampling_arrays(0, 0.0),
    )
