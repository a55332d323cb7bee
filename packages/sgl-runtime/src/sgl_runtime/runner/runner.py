# SPDX-License-Identifier: Apache-2.0
"""`Runner`: one rank of a replica's compute side. Give it a `Batch`, get a `Result`.

It holds the model, the KV pool and the page table, and decides nothing: which tokens are computed, where
they lie and who is sampled is in the batch. Followers run the same passes; rank 0 alone samples and tells
them the tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sgl_kernels import AttentionBackend, AttentionSpec, load_attention
from torch import Tensor

from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import KVPool
from sgl_runtime.layers.kv import bytes_per_slot
from sgl_runtime.messages import Batch, Capacity, LogprobArrays
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.runner import logprobs
from sgl_runtime.runner.assemble import Assembled, Assembler, Rows
from sgl_runtime.runner.load import load_model
from sgl_runtime.runner.memory import Room, free_memory, make_room
from sgl_runtime.runner.pending import Pending
from sgl_runtime.runner.sampler import Sampler
from sgl_runtime.runner.weights import Progress


class Runner:
    """The model in `path`, served as `config` asks, on `tp.device`. Every rank makes one of the same
    arguments.

    capacity: the same on every rank. asynchronous: whether `forward` returns before the pass has ended.
    Raises ConfigError when the model cannot be served as asked, or does not fit.
    """

    capacity: Capacity
    asynchronous: bool

    @torch.inference_mode()
    def __init__(
        self,
        config: ServeConfig,
        model: ModelConfig,
        path: Path,
        tp: TensorParallel,
        progress: Progress | None = None,
    ) -> None:
        self._tp = tp
        self._model, dtype = load_model(config, model, path, tp, progress)
        specs = self._model.attention_specs()
        attention = _attention(config, specs, tp.device)
        context_length = config.context_length or model.context_length
        room = self._agree(
            make_room(
                config,
                free_memory(tp.device),
                kind=tp.device.type,
                context_length=context_length,
                slot_bytes=bytes_per_slot(specs, dtype),
                # The ranks of a computer share its memory; those of CUDA have a device each.
                neighbours=1 if tp.device.type == "cuda" else tp.size * config.data_parallel_size,
            )
        )
        kv = KVPool(specs, room.slots, dtype, tp.device)
        self._rows = Rows(room.rows, room.width, tp.device)
        self._assemble = Assembler(self._rows, kv, attention, specs, tp.device)
        self._sampler = Sampler(model.vocab_size, tp.device)
        self.capacity = Capacity(room.slots, room.rows, context_length, model.vocab_size)
        self.asynchronous = tp.device.type == "cuda"

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Pending:
        """Compute the batch's tokens, and sample for those that want one.

        Passes run in the order of the calls. On a follower, the result of the pending one means nothing.
        """
        if self._tp.leads:
            self._sampler.begin(batch.sampling)
        assembled = self._assemble(batch)
        hidden = self._model(assembled.inputs)
        of_prompt = None
        if batch.logprobs is not None and batch.logprobs.input_index.size:
            of_prompt = self._of_prompt(batch.logprobs, assembled, hidden)
        if not batch.sampled.size:
            return Pending(assembled.sampled_rows, None, of_prompt)
        last = hidden if assembled.last is None else hidden.index_select(0, assembled.last)
        logits = self._model.logits(last)
        tokens = self._choose(batch, logits)
        self._rows.remember(assembled.sampled_rows, tokens)
        of_sampled = None
        if batch.logprobs is not None and self._tp.leads:
            of_sampled = logprobs.of_sampled(logits, tokens, batch.logprobs)
        return Pending(tokens, of_sampled, of_prompt)

    def _choose(self, batch: Batch, logits: Tensor) -> Tensor:
        """logits [m, V] -> tokens [m] int32, the same on every rank."""
        if self._tp.leads:
            tokens = self._sampler(logits, batch.rows[batch.sampled], batch.sampling)
        else:
            tokens = torch.empty(batch.sampled.size, dtype=torch.int32, device=logits.device)
        return self._tp.broadcast(tokens)

    def _of_prompt(self, wanted: LogprobArrays, assembled: Assembled, hidden: Tensor) -> logprobs.Reported:
        return logprobs.of_prompt(
            hidden.index_select(0, assembled.input_index),
            self._model.logits,
            assembled.input_targets,
            wanted.input_top,
            self.capacity.vocab_size,
        )

    def _agree(self, room: Room) -> Room:
        """The smallest room of all ranks: every rank writes the same slots."""
        mine = torch.tensor([room.slots], dtype=torch.int64, device=self._tp.device)
        slots = int(self._tp.all_gather(mine, [1] * self._tp.size).min())
        return Room(slots=slots, rows=min(room.rows, slots), width=min(room.width, slots))


def _attention(config: ServeConfig, specs: list[AttentionSpec], device: torch.device) -> AttentionBackend:
    name = None if config.attention_backend == "auto" else config.attention_backend
    try:
        return load_attention(name, specs, device)
    except ValueError as error:
        raise ConfigError(f"--attention-backend: {error}", param="attention_backend") from error
