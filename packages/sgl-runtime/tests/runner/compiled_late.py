# SPDX-License-Identifier: Apache-2.0
"""A program: what Triton compiles after a model was warmed, of each named model, as one JSON object.

Its own process, since here Triton compiles (for nobody), and in all other tests it interprets.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import torch
from pretend import hopper
from sgl_kernels import logprobs_of_hidden, logprobs_of_logits
from sgl_kernels.attention.triton import TritonAttention

from sgl_runtime.checkpoint.config import read_config
from sgl_runtime.config import ServeConfig
from sgl_runtime.layers import KVPool
from sgl_runtime.messages import History
from sgl_runtime.models import deepseek_v2, llama
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.runner import graphs, warm
from sgl_runtime.runner.assemble import Rows, of_nobody
from sgl_runtime.runner.load import load_model
from sgl_runtime.runner.passes import Passes
from sgl_runtime.runner.penalties import Penalties
from sgl_runtime.runner.sampler import Sampler
from sgl_runtime.runner.transfer import aligned

_SLICED = 151_936  # tokens of a vocabulary: prompts are reported 27 rows at a time, or fewer
CPU = torch.device("cpu")
ROWS, WIDTH, BUDGET, MOST = 300, 4096, 2048, 1280
_HEADS = {"num_attention_heads": 8, "head_dim": 128, "hidden_size": 64, "intermediate_size": 96}
MODELS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "four queries a head": {**llama.TINY, **_HEADS, "num_key_value_heads": 2},
        "seven queries a head": {
            **llama.TINY, **_HEADS, "num_attention_heads": 7, "num_key_value_heads": 1,
        },
        "experts and a latent": {
            **deepseek_v2.TINY, "hidden_size": 64, "num_attention_heads": 16, "num_key_value_heads": 16,
            "kv_lora_rank": 512, "qk_rope_head_dim": 64, "n_routed_experts": 16, "num_experts_per_tok": 6,
            "n_group": 4,
        },
    }
)  # fmt: skip


def compiled_after(shape: Mapping[str, Any]) -> dict[str, list[str]]:
    """For each kind of work, what was compiled for it and had not been by `warm` and the graphs."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(shape))
        read = read_config(Path(folder))
        config = ServeConfig(dtype="bfloat16", device="cpu", load_format="dummy")
        model, dtype = load_model(config, read, Path(folder), TensorParallel.alone(), None)
    specs, attention, sampler = model.attention_specs(), TritonAttention(CPU), Sampler(read.vocab_size, CPU)
    with hopper() as compiled:
        passes = Passes(
            model, Rows(warm.ROWS, warm.WIDTH, CPU), KVPool(specs, 1, dtype, CPU), attention, specs
        )
        hidden = torch.zeros(1, read.hidden_size, dtype=dtype)
        warm.warm(passes, model.logits, hidden, sampler, BUDGET, in_order=False)
        passes = Passes(model, Rows(ROWS, WIDTH, CPU), KVPool(specs, 4096, dtype, CPU), attention, specs)
        graphs.Graphs(passes, slots=4096, rows=ROWS, width=WIDTH, most=MOST).prepare(None)
        late = {}
        for does, work in (
            ("warm", list),
            ("passes", lambda: _run(passes)),
            ("draws", lambda: _draw(sampler, dtype)),
        ):
            before = len(compiled)
            work()
            late[does] = compiled[before:]
        return late | {"warm": compiled[:1]}


def _launches(self: graphs.Graphs, shape: graphs.Shape) -> None:
    """Those of a graph, with no graph."""
    wide = torch.empty(4, aligned(shape.tokens), dtype=torch.int32)
    of_nobody(wide.numpy(), self._passes.rows)
    ids = wide[:, : shape.tokens]
    plans = self._passes.plan(ids, self._largest(shape))
    self._passes.plan(ids, self._least(shape), plans)
    self._passes.compute(ids, plans)


def _run(passes: Passes) -> None:
    rng = random.Random(3)
    mixes = [_requests(rng) for _ in range(12)] + [[(1300, 0), *[(2, 0)] * 12], [(1025, 0)], [(1100, 0)] * 2]
    for mix in mixes:
        passes.run(warm._pass(passes, tuple(mix)))


def _requests(rng: random.Random) -> list[tuple[int, int]]:
    """(queries, tokens cached before them), more in all than a graph is for."""
    single = [(1, rng.randrange(1, 300)) for _ in range(rng.choice([0, 0, 3, 50, 200]))]
    several: list[tuple[int, int]] = []
    while sum(q_len for q_len, _ in several) <= MOST:
        q_len = min(1500, int(rng.lognormvariate(0, 1.1) * 110) + 2)
        several.append((q_len, rng.choice([0, 0, 5, 1500])))
    return single + several


def _draw(sampler: Sampler, dtype: torch.dtype) -> None:
    limits: tuple[dict[str, Any], ...] = (
        {}, {"top_k": 5}, {"top_k": 5000}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 5, "top_p": 0.5},
    )  # fmt: skip
    for rows in (1, 2, 17, 256):
        logits, numbers = torch.zeros(rows, 264, dtype=dtype), np.arange(rows, dtype=np.int32)
        for limit in limits:
            for temperature, biased in ((0.0, 0), (0.7, 0), (0.0, 1), (0.7, 1)):
                sampler(logits, numbers, warm.sampling_arrays(rows, temperature, **limit, biased=biased))
        none = np.empty(0, np.int32)
        penalised = msgspec.structs.replace(
            warm.sampling_arrays(rows, 0.7),
            histories=tuple(History(row=row, prompt=none, output=none) for row in range(rows)),
            presence_penalty=np.ones(rows, np.float32),
        )
        sampler.begin(penalised)
        sampler(logits, numbers, penalised)
        for top in (0, 1, 5, 16):
            logprobs_of_logits(logits, torch.zeros(rows, dtype=torch.int32), top)
            targets = torch.zeros(rows, dtype=torch.int64)
            logprobs_of_hidden(logits, lambda hidden: hidden, targets, top, _SLICED)


if __name__ == "__main__":
    torch.set_num_threads(1)
    instead = (
        mock.patch.object(graphs.Graphs, "_capture", _launches),
        mock.patch.object(torch.cuda, "graph_pool_handle", lambda: None),
        mock.patch.object(warm, "_side_by_side", lambda some, meanwhile: warm._in_turn([*some, *meanwhile])),
        mock.patch.object(Penalties, "count", lambda *_: None),  # nothing was sampled
    )
    with torch.inference_mode():
        for each in instead:
            each.start()
        print(json.dumps({name: compiled_after(MODELS[name]) for name in sys.argv[1:] or MODELS}))
