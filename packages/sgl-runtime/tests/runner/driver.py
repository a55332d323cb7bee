# SPDX-License-Identifier: Apache-2.0
"""Drives a `Runner` as a scheduler would, one request per row, with slots scattered over the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sgl_runtime.checkpoint.config import read_config
from sgl_runtime.config import ServeConfig
from sgl_runtime.messages import Batch, LogprobArrays, Prefix, Result, SamplingArrays
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.runner.runner import Runner

SLOTS = 700


def make_runner(folder: Path, *, tp: TensorParallel | None = None, **config: Any) -> Runner:
    """A float32 runner on the CPU with a small pool, for the checkpoint in `folder`."""
    tp = tp if tp is not None else TensorParallel.alone()
    settings: dict[str, Any] = {
        "dtype": "float32",
        "device": "cpu",
        "max_running_requests": 8,
        "max_total_tokens": SLOTS,
    }
    settings |= {"tensor_parallel_size": tp.size} | config
    return Runner(ServeConfig(**settings), read_config(folder), folder, tp)


def sampling(m: int, **arrays: Any) -> SamplingArrays:
    """Greedy for m rows, but for the arrays given; a single number stands for m of them."""
    values: dict[str, Any] = {
        "temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
        "frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "seeds": 0, "steps": 0,
    }  # fmt: skip
    types = {"top_k": np.int32, "seeds": np.int64, "steps": np.int32}
    loose = {name: value for name, value in arrays.items() if name not in values}
    values |= {name: value for name, value in arrays.items() if name in values}
    full = {name: np.full(m, value, types.get(name, np.float32)) for name, value in values.items()}
    return SamplingArrays(**full, **loose)


class Driver:
    """Requests are named by their rows. Slots are dealt out in a fixed random order and never given back."""

    def __init__(self, runner: Runner, *, seed: int = 0) -> None:
        self.runner = runner
        self._free = np.random.default_rng(seed).permutation(runner.capacity.slots).astype(np.int32).tolist()
        self.slots: dict[int, list[int]] = {}
        self._prefixes: list[Prefix] = []

    def begin(self, row: int, *, shared: Sequence[int] = ()) -> None:
        """A new request enters the row, with the slots of tokens that are already computed."""
        self.slots[row] = list(shared)
        self._prefixes.append(Prefix(row, np.array(shared, np.int32)))

    def batch(
        self,
        work: Mapping[int, Sequence[int]],
        *,
        sampled: Sequence[int] | None = None,
        sampling_arrays: SamplingArrays | None = None,
        logprobs: LogprobArrays | None = None,
    ) -> Batch:
        """Compute these tokens per row; the rows in `sampled` (default: all) get one more."""
        rows, q_lens, kv_lens, tokens, slots = [], [], [], [], []
        for row, new in work.items():
            if row not in self.slots:
                self.begin(row)
            mine = [self._free.pop() for _ in new]
            self.slots[row] += mine
            rows.append(row)
            q_lens.append(len(new))
            kv_lens.append(len(self.slots[row]))
            tokens += new
            slots += mine
        chosen = [rows.index(row) for row in (rows if sampled is None else sampled)]
        prefixes, self._prefixes = tuple(self._prefixes), []
        return Batch(
            rows=np.array(rows, np.int32),
            q_lens=np.array(q_lens, np.int32),
            kv_lens=np.array(kv_lens, np.int32),
            tokens=np.array(tokens, np.int32),
            slots=np.array(slots, np.int32),
            prefixes=prefixes,
            sampled=np.array(chosen, np.int32),
            sampling=sampling_arrays if sampling_arrays is not None else sampling(len(chosen)),
            logprobs=logprobs,
        )

    def step(self, work: Mapping[int, Sequence[int]], **options: Any) -> Result:
        return self.runner.forward(self.batch(work, **options)).result()

    def distribution(self, row: int, tokens: Sequence[int]) -> tuple[int, torch.Tensor]:
        """Compute `tokens`; the next token and log-probabilities [vocabulary] of all tokens after the
        last."""
        none = np.empty(0, np.int32)
        everything = LogprobArrays(np.array([self.runner.capacity.vocab_size], np.int32), none, none, none)
        result = self.step({row: tokens}, logprobs=everything)
        assert result.output_logprobs is not None
        entry = result.output_logprobs[0]
        assert entry is not None
        values = torch.empty(self.runner.capacity.vocab_size)
        values[[token for token, _ in entry[1]]] = torch.tensor([value for _, value in entry[1]])
        return int(result.tokens[0]), values

    def generate(self, row: int, prompt: Sequence[int], steps: int, *, chunk: int | None = None) -> list[int]:
        """Greedy continuation of `prompt`, computed `chunk` tokens at a time."""
        size = chunk or len(prompt)
        parts = [list(prompt[i : i + size]) for i in range(0, len(prompt), size)]
        for part in parts[:-1]:
            self.step({row: part}, sampled=[])
        output = [int(self.step({row: parts[-1]}).tokens[0])]
        while len(output) < steps:
            output.append(int(self.step({row: output[-1:]}).tokens[0]))
        return output
