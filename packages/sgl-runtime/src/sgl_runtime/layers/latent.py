# SPDX-License-Identifier: Apache-2.0
"""Multi-head latent attention: the cache holds one vector for all heads, from which each makes its keys and
values.

In the absorbed form, which is the only one here: instead of expanding what is cached, a head's query is
brought into the space of the latent vectors, and so is its output back from there. The latent vector is
replicated over the ranks, the heads are divided. DeepSeek-AI, "DeepSeek-V2", 2024, appendix on absorption.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sgl_kernels import apply_rope
from torch import Tensor, nn

from sgl_runtime.checkpoint.division import Span
from sgl_runtime.layers.attention import AttentionSpec, PagedAttention
from sgl_runtime.layers.build import Build
from sgl_runtime.layers.head_norm import HeadRMSNorm
from sgl_runtime.layers.inputs import Inputs
from sgl_runtime.layers.linear import Linear, RowLinear
from sgl_runtime.layers.rotary import Rotation
from sgl_runtime.parallel.shard import Part, Shard
from sgl_runtime.quantization import LinearShape


@dataclass(frozen=True)
class LatentShape:
    """Sizes of one layer, of all ranks together."""

    heads: int
    nope: int  # elements of a head's query and key that do not rotate
    rope: int  # those that do; of the key they are the same for all heads
    v: int  # elements of a head's value
    rank: int  # elements of the latent vector
    q_rank: int | None  # of the vector that queries are made of; None: they are made of the hidden state


class HeadProjections(nn.Module):
    """What makes keys and values of a latent vector: `weight` [own heads x (nope + v), rank]."""

    def __init__(self, build: Build, shape: LatentShape, own: Span) -> None:
        super().__init__()
        rows = shape.nope + shape.v
        part = Part(shape.heads * rows, own.times(rows))
        self.weight = Shard(((part,), (Part.whole(shape.rank),)), build.dtype, build.device)
        self.products = self.weight.numel()  # multiplications that a token costs
        self._heads, self._nope = own.length, shape.nope

    def query(self, q: Tensor, out: Tensor) -> None:
        """What scores with keys q [T, heads, nope] -> what scores the same with latent vectors, in out [T,
        heads, rank]."""
        keys = self.weight.unflatten(0, (self._heads, -1))[:, : self._nope]
        torch.bmm(q.transpose(0, 1), keys, out=out.transpose(0, 1))

    def value(self, x: Tensor) -> Tensor:
        """Weighted latent vectors x [T, heads, rank] -> weighted values [T, heads x v]."""
        values = self.weight.unflatten(0, (self._heads, -1))[:, self._nope :]
        out = x.new_empty(len(x), self._heads, values.shape[1])
        torch.bmm(x.transpose(0, 1), values.mT, out=out.transpose(0, 1))
        return out.flatten(1)


class LatentAttention(nn.Module):
    """[T, hidden] -> [T, hidden], summed over the ranks, of the tokens asked for.

    `layer` is the index into the KV pool. In `qkv_a_proj` lie q ("q_a" with a q_rank) and kv_a. bias: of the
    projections from and to the hidden state, without that of queries that have no q_rank.
    """

    q_a_layernorm: HeadRMSNorm | None
    q_b_proj: Linear | None

    def __init__(
        self,
        build: Build,
        layer: int,
        shape: LatentShape,
        hidden: int,
        *,
        scale: float,
        eps: float = 1e-6,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self._shape = shape
        own = build.heads(shape.heads, shape.heads).q
        head = shape.nope + shape.rope
        q, latent = Part(shape.heads * head, own.times(head), "q"), shape.rank + shape.rope
        if shape.q_rank is None:
            self._first, self.q_a_layernorm, self.q_b_proj = q.own.length, None, None
            self.qkv_a_proj = _project(build, hidden, q, Part.whole(latent, "kv_a"), bias=False)
        else:
            self._first, q_a = shape.q_rank, Part.whole(shape.q_rank, "q_a")
            self.q_a_layernorm = HeadRMSNorm(build, shape.q_rank, eps)
            self.q_b_proj = _project(build, shape.q_rank, q, bias=False)
            self.qkv_a_proj = _project(build, hidden, q_a, Part.whole(latent, "kv_a"), bias=bias)
        self.kv_a_layernorm = HeadRMSNorm(build, shape.rank, eps)
        self.kv_b_proj = HeadProjections(build, shape, own)
        inputs, share = shape.heads * shape.v, own.times(shape.v)
        self.o_proj = RowLinear(build, inputs, hidden, bias=bias, share=share)
        self.attend = PagedAttention(
            layer, AttentionSpec(own.length, 1, latent, shape.rank, scale=scale, latent=True)
        )

    def forward(self, x: Tensor, rotation: Rotation, inputs: Inputs) -> Tensor:
        """The rotation is of `rope` dimensions."""
        shape = self._shape
        q, key = self.qkv_a_proj(x).split([self._first, shape.rank + shape.rope], dim=1)
        if self.q_a_layernorm is not None and self.q_b_proj is not None:
            q = self.q_b_proj(self.q_a_layernorm(q))
        q = q.unflatten(1, (-1, shape.nope + shape.rope))
        query = q.new_empty(*q.shape[:2], shape.rank + shape.rope)
        self.kv_b_proj.query(q[..., : shape.nope], out=query[..., : shape.rank])
        query[..., shape.rank :] = q[..., shape.nope :]
        key[:, : shape.rank] = self.kv_a_layernorm(key[:, : shape.rank])
        key = key.unsqueeze(1)
        apply_rope(
            query[..., shape.rank :],
            key[..., shape.rank :],
            rotation.cos,
            rotation.sin,
            positions=rotation.positions,
            interleaved=rotation.interleaved,
        )
        out = self.attend(query, key, None, inputs).unflatten(1, (-1, shape.rank))
        return self.o_proj(self.kv_b_proj.value(out))


def _project(build: Build, inputs: int, *parts: Part, bias: bool) -> Linear:
    return Linear(build, LinearShape(Part.whole(inputs), parts), bias=bias)
