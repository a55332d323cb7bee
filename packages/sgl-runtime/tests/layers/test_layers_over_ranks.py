# SPDX-License-Identifier: Apache-2.0
"""Layers divided over ranks add up to the whole, for sizes that do not divide: no process is needed to see
it.

Each rank's layer is loaded from the same full tensors. Column outputs, laid side by side, and row outputs,
summed, are those of one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sgl_runtime.checkpoint.division import share
from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import (
    Build,
    ColumnLinear,
    Embedding,
    GatedMLP,
    LogitsHead,
    QKVLinear,
    RowLinear,
)
from sgl_runtime.parallel.shard import Shard
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.quantization import resolve

CPU = torch.device("cpu")
SIZES = [1, 2, 3]


@dataclass(frozen=True)
class Alone(TensorParallel):
    """One rank of several whose collectives are left to the test."""

    def __post_init__(self) -> None:
        pass


def builds(size: int) -> list[Build]:
    return [
        Build(
            config=None,  # type: ignore[arg-type]  # these layers are told their sizes
            tp=Alone(rank, size, CPU),
            quantization=resolve({}),
            dtype=torch.float32,
            device=CPU,
            context_length=16,
        )
        for rank in range(size)
    ]


def load(parameter: Any, **tensors: Tensor) -> None:
    assert isinstance(parameter, Shard)
    for part in parameter.parts:
        parameter.load(tensors["whole" if part is None else str(part)], part)


def on_every_rank(size: int, make: Callable[[Build], nn.Module]) -> list[Any]:
    return [make(build) for build in builds(size)]


def pieces(x: Tensor, size: int) -> Sequence[Tensor]:
    return x.split([share(x.shape[-1], rank, size).length for rank in range(size)], dim=-1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [False, True])
def test_column_linear(size: int, bias: bool) -> None:
    x, weight, offset = torch.randn(4, 5), torch.randn(11, 5), torch.randn(11)
    layers = on_every_rank(size, lambda build: ColumnLinear(build, 5, {None: 11}, bias=bias))
    for layer in layers:
        load(layer.weight, whole=weight)
        if bias:
            load(layer.bias, whole=offset)
        layer.finish()
    outputs = torch.cat([layer(x) for layer in layers], dim=-1)
    torch.testing.assert_close(outputs, functional.linear(x, weight, offset if bias else None))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bias", [False, True])
def test_row_linear(size: int, bias: bool) -> None:
    x, weight, offset = torch.randn(4, 11), torch.randn(5, 11), torch.randn(5)
    layers = on_every_rank(size, lambda build: RowLinear(build, 11, 5, bias=bias))
    for layer in layers:
        load(layer.weight, whole=weight)
        if bias:
            load(layer.bias, whole=offset)
        layer.finish()
    total = sum(layer(mine) for layer, mine in zip(layers, pieces(x, size), strict=True))
    torch.testing.assert_close(total, functional.linear(x, weight, offset if bias else None))


@pytest.mark.parametrize("size", [1, 2, 3, 6, 9])
def test_qkv_linear(size: int) -> None:
    heads, kv_heads, dim = (18, 3, 4) if size == 6 else (9, 3, 4)
    x = torch.randn(2, 5)
    q, k, v = torch.randn(heads * dim, 5), torch.randn(kv_heads * dim, 5), torch.randn(kv_heads * dim, 5)
    layers = on_every_rank(size, lambda build: QKVLinear(build, 5, heads, kv_heads, dim, bias=False))
    queries = []
    for rank, layer in enumerate(layers):
        load(layer.weight, q=q, k=k, v=v)
        layer.finish()
        mine = builds(size)[rank].heads(heads, kv_heads)
        a, b, c = layer.split(x)
        queries.append(a)
        for own, whole in ((b, k), (c, v)):
            expected = functional.linear(x, whole).view(2, kv_heads, dim)[:, mine.kv.start : mine.kv.stop]
            torch.testing.assert_close(own, expected)
        assert a.data_ptr() + a.shape[1] * dim * 4 == b.data_ptr(), "rotated in one call: k lies behind q"
    torch.testing.assert_close(torch.cat(queries, 1), functional.linear(x, q).view(2, heads, dim))


@pytest.mark.parametrize("size", SIZES)
def test_gated_mlp(size: int) -> None:
    x, gate, up, down = torch.randn(3, 6), torch.randn(13, 6), torch.randn(13, 6), torch.randn(6, 13)
    layers = on_every_rank(size, lambda build: GatedMLP(build, 6, 13, "silu", bias=False))
    for layer in layers:
        load(layer.gate_up_proj.weight, gate=gate, up=up)
        load(layer.down_proj.weight, whole=down)
        layer.gate_up_proj.finish()
        layer.down_proj.finish()
    expected = functional.linear(functional.silu(x @ gate.T) * (x @ up.T), down)
    torch.testing.assert_close(sum(layer(x) for layer in layers), expected)


@pytest.mark.parametrize("size", SIZES)
def test_embedding_and_head(size: int) -> None:
    vocabulary, width = 11, 4
    table, matrix = torch.randn(vocabulary, width), torch.randn(vocabulary, width)
    tokens, hidden = torch.tensor([0, 10, 3, 4, 7, 3]), torch.randn(2, width)
    embeddings = on_every_rank(size, lambda build: Embedding(build, vocabulary, width))
    for embedding in embeddings:
        load(embedding.weight, whole=table)
    torch.testing.assert_close(sum(embedding(tokens) for embedding in embeddings), table[tokens])
    assert tokens.tolist() == [0, 10, 3, 4, 7, 3], "the tokens are read only"

    ranks = builds(size)
    tied = [
        LogitsHead(build, vocabulary, width, tied=each) for build, each in zip(ranks, embeddings, strict=True)
    ]
    assert not any(list(head.parameters()) for head in tied), "the embedding's matrix is counted once"
    for head in tied:
        head.finish()
    torch.testing.assert_close(torch.cat([head(hidden) for head in tied], -1), hidden @ table.T)
    own = on_every_rank(size, lambda build: LogitsHead(build, vocabulary, width, tied=None))
    for head in own:
        load(head.weight, whole=matrix)
        head.finish()
    torch.testing.assert_close(torch.cat([head(hidden) for head in own], -1), hidden @ matrix.T)


def test_a_width_that_leaves_a_rank_with_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="--tp 3 is too large"):
        ColumnLinear(builds(3)[0], 5, {None: 2}, bias=False)
