# SPDX-License-Identifier: Apache-2.0
"""Linear layers divided over the ranks: by outputs (column), by inputs (row), or by heads (qkv).

What a weight looks like and how it multiplies is the quantisation's; which slice of it a rank holds, the
bias and the all-reduce are decided here.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sgl_runtime.checkpoint.division import Span
from sgl_runtime.layers.build import Build
from sgl_runtime.parallel.shard import Part, Shard
from sgl_runtime.quantization import LinearShape


class Linear(nn.Module):
    """y = x W + b on one rank, in whatever form the quantisation stores W.

    products: multiplications that a token costs.
    """

    bias: Shard | None

    def __init__(self, build: Build, shape: LinearShape, *, bias: bool) -> None:
        super().__init__()
        self.quantization = build.quantization
        self.products = shape.inputs.own.length * sum(part.own.length for part in shape.outputs)
        for name, shard in build.quantization.parameters(shape, build.dtype, build.device).items():
            self.register_parameter(name, shard)
        self.register_parameter("bias", Shard((shape.outputs,), build.dtype, build.device) if bias else None)

    def finish(self) -> None:
        """Every parameter is loaded."""
        self.quantization.finish(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.quantization.apply(self, x, self.bias)


class ColumnLinear(Linear):
    """[T, inputs] -> [T, this rank's share of the outputs], the shares of stacked tensors side by side.

    `outputs` maps the name of each stacked tensor (as `Model.packed` spells it) to its full width; a single
    tensor is named None.
    """

    def __init__(
        self, build: Build, inputs: int, outputs: Mapping[str | int | None, int], *, bias: bool
    ) -> None:
        parts = tuple(Part(size, build.share(size), name) for name, size in outputs.items())
        super().__init__(build, LinearShape(Part.whole(inputs), parts), bias=bias)


class QKVLinear(Linear):
    """[T, inputs] -> this rank's query heads, and the keys and values they attend to, side by side."""

    def __init__(
        self, build: Build, inputs: int, heads: int, kv_heads: int, head_dim: int, *, bias: bool
    ) -> None:
        mine = build.heads(heads, kv_heads)
        q, kv = mine.q.times(head_dim), mine.kv.times(head_dim)
        parts = (
            Part(heads * head_dim, q, "q"),
            Part(kv_heads * head_dim, kv, "k"),
            Part(kv_heads * head_dim, kv, "v"),
        )
        super().__init__(build, LinearShape(Part.whole(inputs), parts), bias=bias)
        self._heads = [mine.q.length, mine.kv.length, mine.kv.length]
        self._head_dim = head_dim

    def split(self, x: Tensor, *, clip: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q [T, query heads, head_dim], k and v [T, KV heads, head_dim]: views of one buffer.

        clip: what is beyond it, up or down, becomes it.
        """
        qkv = self(x).view(x.shape[0], -1, self._head_dim)
        if clip is not None:
            qkv.clamp_(-clip, clip)
        q, k, v = qkv.split(self._heads, dim=1)
        return q, k, v


class RowLinear(Linear):
    """[T, this rank's share of the inputs] -> [T, outputs], summed over the ranks.

    `share` is the slice of the inputs that the layer before left on this rank; without it, the balanced one.
    """

    def __init__(
        self, build: Build, inputs: int, outputs: int, *, bias: bool, share: Span | None = None
    ) -> None:
        own = share if share is not None else build.share(inputs)
        super().__init__(build, LinearShape(Part(inputs, own), (Part.whole(outputs),)), bias=bias)
        self._tp = build.tp

    def forward(self, x: Tensor) -> Tensor:
        # The bias must enter the sum once.
        bias = self.bias if self._tp.leads else None
        return self._tp.all_reduce(self.quantization.apply(self, x, bias))
