# SPDX-License-Identifier: Apache-2.0
"""Sampling and log-probabilities over the vocabulary of Llama 3, for flat logits and for peaked ones.

The floor is one read of the logits. Checked: the share of rows whose token is not that of the torch reference
on the same device (few may differ, at the edge of what is kept), or the relative error of log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sgl_kernels import SamplingParameters, available, logprobs_of_logits, sample
from sgl_kernels.bench.harness import Call, Case, Prepared, relative_error
from sgl_kernels.sampling import reference

_VOCABULARY = 128256
_WAYS = {
    "greedy": (0.0, 0, 1.0, 0.0),
    "temperature": (1.0, 0, 1.0, 0.0),
    "top-k 50, top-p 0.9": (1.0, 50, 0.9, 0.0),
    "top-p 0.9": (1.0, 0, 0.9, 0.0),
    "min-p 0.05": (1.0, 0, 1.0, 0.05),
    "all three": (0.8, 1000, 0.95, 0.01),
}


def cases() -> Iterator[Case]:
    for rows, dtype, peaked in (
        (256, torch.float32, False),
        (256, torch.float32, True),
        (256, torch.bfloat16, False),
        (1, torch.float32, True),
    ):
        size = f"{rows} x {_VOCABULARY} {str(dtype).removeprefix('torch.')}, {'peaked' if peaked else 'flat'}"
        read = rows * _VOCABULARY * dtype.itemsize
        for way, limits in _WAYS.items():
            goal = 0.8 if way in ("greedy", "temperature") else 1 / 3
            yield Case(
                f"sample {way}", size, _sampling(rows, dtype, peaked, limits), read, limit=0.01, goal=goal
            )
        for top in (0, 20):
            yield Case(f"logprobs, top {top}", size, _logprobs(rows, dtype, peaked, top), read, limit=1e-5)


def make_logits(rows: int, dtype: torch.dtype, peaked: bool) -> Tensor:
    """Flat: normal variates. Peaked: sixty tokens, more of them with low ids, far above the rest of a row."""
    x = torch.randn(rows, _VOCABULARY, device="cuda")
    if peaked:
        heads = (torch.rand(rows, 60, device="cuda") ** 2 * _VOCABULARY * 0.3).long()
        x.mul_(2.2).scatter_(1, heads, 12 + torch.randn(rows, 60, device="cuda") * 1.5)
    return x.to(dtype)


def _sampling(
    rows: int, dtype: torch.dtype, peaked: bool, limits: tuple[float, ...]
) -> Callable[[], Prepared]:
    def prepare() -> Prepared:
        logits = make_logits(rows, dtype, peaked)
        temperature, top_k, top_p, min_p = ([value] * rows for value in limits)
        seeds, steps = list(range(rows)), [0] * rows
        parameters = SamplingParameters.of(temperature, top_k, top_p, min_p, seeds, steps, "cuda")

        def check() -> float:
            return (sample(logits, parameters) != reference(logits, parameters)).float().mean().item()

        others: dict[str, Call] = {}
        heat, k, p, floor = limits
        if heat == 0:
            others["torch"] = lambda: logits.argmax(-1)
        elif not peaked and (k or p < 1 or floor):
            others["torch, sorting"] = lambda: reference(logits, parameters)
        if available()["flashinfer"].usable and dtype == torch.float32 and heat == 1 and not floor:
            flashinfer: Any = import_module("flashinfer.sampling")
            ks = torch.full((rows,), int(k) or _VOCABULARY, dtype=torch.int32, device="cuda")
            ps = torch.full((rows,), p, device="cuda")
            if k:
                others["FlashInfer"] = lambda: flashinfer.top_k_top_p_sampling_from_logits(
                    logits, ks, ps, filter_apply_order="joint"
                )
            elif p < 1:
                others["FlashInfer"] = lambda: flashinfer.top_p_sampling_from_probs(
                    flashinfer.softmax(logits), ps
                )
            else:
                others["FlashInfer"] = lambda: flashinfer.sampling_from_logits(logits)
        return Prepared(lambda: sample(logits, parameters), others, check)

    return prepare


def _logprobs(rows: int, dtype: torch.dtype, peaked: bool, top: int) -> Callable[[], Prepared]:
    def prepare() -> Prepared:
        logits = make_logits(rows, dtype, peaked)
        targets = torch.randint(_VOCABULARY, (rows,), device="cuda")

        def check() -> float:
            found, exact = logprobs_of_logits(logits, targets, top), logits.double().log_softmax(-1)
            error = relative_error(found.target, exact.gather(1, targets[:, None]).squeeze(1))
            return max(error, relative_error(found.top_values, exact.topk(top).values))

        def torch_way() -> Tensor:
            logprobs = logits.log_softmax(-1, dtype=torch.float32)
            logprobs.topk(top)
            return logprobs.gather(1, targets[:, None])

        return Prepared(lambda: logprobs_of_logits(logits, targets, top), {"torch": torch_way}, check)

    return prepare
