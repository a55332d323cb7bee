# SPDX-License-Identifier: Apache-2.0
"""Does a prompt whose beginning is in the prefix cache get the logits that it gets when computed whole?

Both run through the scheduler and the cache that serve. What is compared are log-probabilities of the first
token; the greedy tokens after it are shown, since near ties may turn them without anything being wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch

from sgl_runtime.bench.options import LatencyOptions
from sgl_runtime.bench.results import Comparison
from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.messages import Capacity, Delta, Generate, LogprobSpec, Sampling
from sgl_runtime.text.tokenizer import load_tokenizer

_PROMPTS = (
    "The longest river of the continent is",
    "A recipe for bread begins with flour, water and",
    "In the year 1969 the first people walked on the",
)
_COMPARED = 20  # the most likely tokens, in each
# Passes of different shapes add in different orders: how far a log-probability of some -1 to -10 may move.
_TOLERANCE = MappingProxyType({torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 2e-1})


class Engine(Protocol):
    """Computes requests together, to the end: `static_batch.Engine`."""

    def run(self, requests: Sequence[Generate]) -> tuple[float, list[tuple[float, list[Delta]]]]: ...

    def flush(self) -> None: ...


class _Answer:
    """What one request got."""

    def __init__(self, deltas: list[Delta]) -> None:
        self.tokens = [token for delta in deltas for token in delta.tokens]
        self.cached = max(delta.cached for delta in deltas)
        scores = next(delta.output_logprobs for delta in deltas if delta.output_logprobs is not None)
        self.first = scores.top[0]  # the most likely first tokens, with their log-probabilities


def compare(
    engine: Engine,
    config: ServeConfig,
    options: LatencyOptions,
    path: Path,
    capacity: Capacity,
    dtype: torch.dtype,
) -> Iterator[Comparison]:
    """Each prompt whole, then with its first `cut_len` tokens cached. The engine's cache is of a radix tree.

    With --skip-tokenizer-init prompts are random ids of the first --input-len.
    """
    tokenizer = None if config.skip_tokenizer_init else load_tokenizer(Path(config.tokenizer_path or path))
    random = np.random.default_rng(0 if config.random_seed is None else config.random_seed)
    sampling = Sampling(max_new_tokens=options.output_len[0], temperature=0.0, ignore_eos=True)
    for number, text in enumerate(_PROMPTS):
        if tokenizer is None:
            tokens = random.integers(0, capacity.vocab_size, options.input_len[0]).tolist()
        else:
            tokens = tokenizer.encode(text)
        if options.cut_len >= len(tokens):
            raise ConfigError(
                f"--cut-len {options.cut_len}: prompt {number} has {len(tokens)} tokens, and one must remain"
            )
        room, each = min(capacity.context_length, capacity.slots), len(tokens) + options.output_len[0]
        if each > room:
            raise ConfigError(
                f"prompt {number} and --output-len {options.output_len[0]} are {each} tokens, and there is "
                f"room for {room}: ask for less, or give a larger --max-total-tokens or --context-length"
            )
        engine.flush()
        whole = _run(engine, tokens, sampling)
        engine.flush()
        engine.run([Generate("beginning", tokens[: options.cut_len], Sampling(max_new_tokens=0))])
        after = _run(engine, tokens, sampling)
        yield Comparison(
            prompt=text if tokenizer is not None else f"{len(tokens)} random tokens",
            cached=after.cached,
            whole=whole.first,
            after_cache=after.first,
            difference=difference(whole.first, after.first),
            tolerance=_TOLERANCE[dtype],
            tokens_whole=whole.tokens,
            tokens_after_cache=after.tokens,
            text="" if tokenizer is None else tokenizer.decode(whole.tokens),
        )


def difference(before: Sequence[tuple[int, float]], after: Sequence[tuple[int, float]]) -> float | None:
    """The largest between two log-probabilities of one token; None if they have no token in common."""
    first, second = dict(before), dict(after)
    return max((abs(first[token] - second[token]) for token in first.keys() & second), default=None)


def _run(engine: Engine, tokens: list[int], sampling: Sampling) -> _Answer:
    _, steps = engine.run([Generate("prompt", tokens, sampling, LogprobSpec(top=_COMPARED))])
    return _Answer([delta for _, deltas in steps for delta in deltas])
