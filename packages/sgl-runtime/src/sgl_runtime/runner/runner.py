# SPDX-License-Identifier: Apache-2.0
"""`Runner`: one rank of a replica's compute side. Give it a `Batch`, get a `Result`.

It holds the model, the KV pool and the page table, and decides nothing: which tokens are computed, where
they lie and who is sampled is in the batch. Followers run the same passes; rank 0 alone samples and tells
them the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sgl_runtime import log
from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.config import ServeConfig, prefill_limits
from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Inputs, KVPool, PagedAttention
from sgl_runtime.layers.kv import bytes_per_slot, cache_dtype
from sgl_runtime.messages import I32, Batch, Capacity, LogprobArrays, Masks
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.profile.spans import Laps
from sgl_runtime.runner import logprobs
from sgl_runtime.runner.assemble import ROW, Pass, Rows, describe
from sgl_runtime.runner.attention import choose_attention
from sgl_runtime.runner.graphs import Graphs, most_tokens
from sgl_runtime.runner.load import load_model
from sgl_runtime.runner.memory import Room, Spending, free_memory, make_room
from sgl_runtime.runner.parts import attempt, in_parts
from sgl_runtime.runner.passes import Passes
from sgl_runtime.runner.pending import Pending
from sgl_runtime.runner.reserve import measure_reserve
from sgl_runtime.runner.sampler import Sampler
from sgl_runtime.runner.stream import on_stream
from sgl_runtime.runner.transfer import to_device
from sgl_runtime.runner.warm import ROWS, WIDTH, warm
from sgl_runtime.runner.weights import Progress

_logger = log.logger(__name__)

_RECOMPILATIONS = 64


class _Computed(NamedTuple):
    """What a pass left on the device."""

    rows: Tensor  # [w] int32: the page-table row of each token that is asked for
    hidden: Tensor  # [w, hidden] of them
    failed: list[int]  # requests of the batch for which memory did not suffice: their states mean nothing


class Runner:
    """The model in `path`, served as `config` asks, on `tp.device`. Every rank makes one of the same
    arguments.

    capacity: the same on every rank; if it answers with vectors, results are `pooled`. asynchronous: whether
    `forward` returns before the pass has ended. Raises ConfigError when the model cannot be served as asked,
    or does not fit.
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
        if config.enable_torch_compile and tp.device.type != "cuda":
            raise ConfigError(
                "--enable-torch-compile needs a CUDA device: on a CPU, products read weights in a layout of "
                "their own, which it cannot trace; leave the flag out",
                param="enable_torch_compile",
            )
        self._tp = tp
        self._stream = torch.cuda.Stream(tp.device) if tp.device.type == "cuda" else None
        with on_stream(self._stream):
            self._build(config, model, path, progress)

    def _build(self, config: ServeConfig, model: ModelConfig, path: Path, progress: Progress | None) -> None:
        tp, before = self._tp, free_memory(self._tp.device)
        self._model, dtype = load_model(config, model, path, tp, progress)
        self._dtype, self._hidden_size = dtype, model.hidden_size
        specs = self._model.attention_specs()
        attention = choose_attention(config, specs, tp.device)
        self._sampler = Sampler(model.vocab_size, tp.device, config.sampling_backend)
        self._budget = prefill_limits(config, tp.device.type).budget
        context_length = config.context_length or model.context_length
        cached = cache_dtype(config.kv_cache_dtype, dtype)
        forward = _compiled(self._model) if config.enable_torch_compile else self._model
        loaded = free_memory(tp.device)
        self.asynchronous = tp.device.type == "cuda"
        if self.asynchronous:
            kv = KVPool(specs, 1, cached, tp.device)
            passes = Passes(forward, Rows(ROWS, WIDTH, tp.device), kv, attention, specs)
            self._warm(passes, in_order=tp.size > 1 or config.enable_torch_compile)
        reserve = measure_reserve(
            config, self._model, attention, cached, context_length, self._sampler, tp.device
        )
        room = self._agree(
            make_room(
                config,
                free_memory(tp.device),
                kind=tp.device.type,
                context_length=context_length,
                slot_bytes=bytes_per_slot(specs, cached),
                reserve=reserve,
                # The ranks of a computer share its memory; those of CUDA have a device each.
                neighbours=1 if tp.device.type == "cuda" else tp.size * config.data_parallel_size,
            )
        )
        kv = KVPool(specs, room.slots, cached, tp.device)
        self._spent = Spending(
            total=loaded.total,
            weights=before.free - loaded.free,
            slots=room.slots,
            slot_bytes=bytes_per_slot(specs, cached),
            reserve=reserve,
            graphs=0,
            free=free_memory(tp.device).free,
        )
        self._rows = Rows(room.rows, room.width, tp.device)
        self._passes = Passes(forward, self._rows, kv, attention, specs)
        self.capacity = Capacity(room.slots, room.rows, context_length, model.vocab_size, self._model.answers)
        self._graphs = None
        if self.asynchronous and not config.disable_cuda_graph and attention.refills != "none":
            self._graphs = Graphs(
                self._passes,
                slots=room.slots,
                rows=room.rows,
                width=room.width,
                most=self._most_tokens(len(specs)) if attention.refills == "any" else 0,
            )

    @torch.inference_mode()
    def prepare(self, progress: Progress | None = None) -> Spending:
        """Capture CUDA graphs. Every rank calls it, before the first batch.

        Returns where the memory of this rank's device went.
        """
        if not self.asynchronous:
            return self._spent
        if self._graphs is not None:
            with on_stream(self._stream):
                self._graphs.prepare(progress)
        free = free_memory(self._tp.device).free
        return replace(self._spent, graphs=self._spent.free - free, free=free)

    @torch.inference_mode()
    def forward(self, batch: Batch, masks: Callable[[], Masks | None] | None = None) -> Pending:
        """Compute the batch's tokens, and sample for those that want one.

        Passes run in the order of the calls. On a follower, the result of the pending one means nothing. If
        the device has not the memory, `failed` of the pending one names the requests that were not computed.
        masks: asked once, when the model is launched and before anything is sampled, for what constrained
        rows may take; it may wait for earlier passes. None: nothing is constrained.
        """
        with on_stream(self._stream):
            return self._forward(batch, masks)

    def record(self, laps: Laps) -> None:
        """Tell `laps` from now on when a pass's inputs are on their way to the device."""
        self._passes.laps = laps

    @property
    def stream(self) -> torch.cuda.Stream | None:
        """Where the passes run; None on a CPU."""
        return self._stream

    def _warm(self, passes: Passes, *, in_order: bool) -> None:
        hidden = torch.zeros(1, self._hidden_size, dtype=self._dtype, device=self._tp.device)
        sampler = self._sampler if self._tp.leads and self._generates else None
        warm(passes, self._answer, hidden, sampler, self._budget, in_order=in_order)

    @property
    def _generates(self) -> bool:
        return self._model.answers == "text"

    def _forward(self, batch: Batch, masks: Callable[[], Masks | None] | None) -> Pending:
        if self._tp.leads:
            self._sampler.begin(batch.sampling)
        self._rows.enter(batch.prefixes)
        step = describe(batch, self._rows)
        if self._tp.size > 1:  # a rank that goes its own way leaves the others waiting for it
            return self._tell(batch, step, _Computed(*self._run(step), []), masks)
        computed = attempt(lambda: self._compute(step))
        told = None if computed is None else attempt(lambda: self._tell(batch, step, computed, masks))
        if told is not None:
            return told
        nothing = torch.full((batch.sampled.size,), -1, dtype=torch.int32)
        return Pending(nothing, failed=range(step.requests))

    def _compute(self, step: Pass) -> _Computed:
        made = attempt(lambda: self._run(step))
        if made is not None:
            return _Computed(*made, [])
        hidden = torch.zeros(step.tokens, self._hidden_size, dtype=self._dtype, device=self._tp.device)
        failed = in_parts(lambda part: self._run(part)[1], step, hidden)
        _logger.warning(
            "memory of %s did not suffice for a pass of %d tokens: computed in parts, %d of %d requests not",
            self._tp.device, step.tokens, len(failed), step.requests,
        )  # fmt: skip
        rows = torch.from_numpy(step.ids[ROW].copy()).to(hidden.device)
        return _Computed(*self._select(step.asked, rows, hidden), failed)

    def _run(self, step: Pass) -> tuple[Tensor, Tensor]:
        """Of the tokens asked for, rows [w] and hidden states [w, hidden]; good until the next run."""
        replayed = None if self._graphs is None else self._graphs.run(step)
        if replayed is None:
            return self._passes.run(step)
        ids, hidden = replayed
        return self._select(step.asked, ids[ROW], hidden)

    def _select(self, chosen: I32 | None, rows: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[n], [n, hidden] -> those of the chosen [w], [w, hidden]; None: all."""
        if chosen is None:
            return rows, hidden
        index = to_device({"index": chosen}, np.int32, self._tp.device)["index"]
        return rows.index_select(0, index), hidden.index_select(0, index)

    def _tell(
        self, batch: Batch, step: Pass, computed: _Computed, masks: Callable[[], Masks | None] | None
    ) -> Pending:
        """What the batch asks for of the hidden states, on its way to the host."""
        rows, hidden, failed = computed
        of_prompt = None
        if batch.logprobs is not None and batch.logprobs.input_index.size:
            of_prompt = self._of_prompt(batch.logprobs, step, hidden)
        if step.last is not None and (step.asked is None or not np.array_equal(step.last, step.asked)):
            rows, hidden = self._select(step.place(step.last), rows, hidden)
        if not batch.sampled.size:
            return Pending(rows, None, of_prompt, failed=failed)
        answers = self._answer(hidden)
        if not self._generates:
            return Pending(torch.zeros_like(rows), pooled=answers, failed=failed)
        tokens = self._choose(batch, answers, None if masks is None else masks())
        self._rows.remember(rows, tokens)
        of_sampled = None
        if batch.logprobs is not None and self._tp.leads:
            of_sampled = logprobs.of_sampled(answers, tokens, batch.logprobs)
        return Pending(tokens, of_sampled, of_prompt, failed=failed)

    def _answer(self, hidden: Tensor) -> Tensor:
        """hidden [m, hidden] -> logits [m, vocabulary], or what is pooled [m, size]."""
        return self._model.logits(hidden) if self._generates else self._model.pool(hidden)

    def _choose(self, batch: Batch, logits: Tensor, masks: Masks | None) -> Tensor:
        """logits [m, V] -> tokens [m] int32, the same on every rank."""
        if self._tp.leads:
            tokens = self._sampler(logits, batch.rows[batch.sampled], batch.sampling, masks)
        else:
            tokens = torch.empty(batch.sampled.size, dtype=torch.int32, device=logits.device)
        return self._tp.broadcast(tokens)

    def _of_prompt(self, wanted: LogprobArrays, step: Pass, hidden: Tensor) -> logprobs.Reported:
        index, counts = np.unique(step.place(wanted.input_index), return_counts=True)
        once = len(index) == len(wanted.input_index)
        arrays: dict[str, I32] = {"index": index, "targets": wanted.input_targets}
        on_device = to_device(arrays, np.int64, self._tp.device)
        return logprobs.of_prompt(
            hidden.index_select(0, on_device["index"]),
            self._model.logits,
            on_device["targets"],
            None if once else counts.tolist(),
            wanted.input_top,
            self.capacity.vocab_size,
        )

    def _agree(self, room: Room) -> Room:
        """The smallest room of all ranks: every rank writes the same slots."""
        slots = min(self._of_ranks(room.slots))
        return Room(slots=slots, rows=min(room.rows, slots), width=min(room.width, slots))

    def _most_tokens(self, layers: int) -> int:
        """The same on every rank, though their shares of the model may differ: they capture together."""
        return most_tokens(layers, max(self._of_ranks(self._model.products_of_layers())))

    def _of_ranks(self, mine: int) -> list[int]:
        """Every rank's number."""
        number = torch.tensor([mine], dtype=torch.int64, device=self._tp.device)
        return self._tp.all_gather(number, [1] * self._tp.size).tolist()


def _compiled(model: nn.Module) -> Callable[[Inputs], Tensor]:
    """A layer is compiled for one, few and many tokens, all or some of them asked for: more often than the
    compiler takes for a mistake, after which it would give the layer up."""
    import_module("torch._dynamo").config.recompile_limit = _RECOMPILATIONS
    for module in model.modules():
        if isinstance(module, PagedAttention):
            module.untrace()
    return torch.compile(model, dynamic=True)
