# SPDX-License-Identifier: Apache-2.0
"""Norms at the widths of published models, and over the heads of queries.

Beside them `torch.neg` over as many bytes: what an elementwise kernel of torch reaches at that size.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sgl_kernels import fused_add_rms_norm, gemma_rms_norm, layer_norm, rms_norm
from sgl_kernels.bench.harness import Call, Case, Prepared, relative_error

_SIZES = ((1, 4096), (64, 4096), (1024, 4096), (2048, 4096), (8192, 4096), (8192, 5120))
_HEADS = (262144, 128)


def cases() -> Iterator[Case]:
    for rows, width in (*_SIZES, _HEADS):
        moved = 4 * rows * width
        goal = 0.85 if moved >= 8 << 20 else None

        def alone(rows: int = rows, width: int = width) -> Prepared:
            x, weight = _random(rows, width), _random(width)

            def check() -> float:
                normal = _normal(x)
                return max(
                    relative_error(rms_norm(x, weight, 1e-6), normal * weight.double()),
                    relative_error(gemma_rms_norm(x, weight, 1e-6), normal * (1 + weight.double())),
                )

            beside = {"torch": lambda: F.rms_norm(x, weight.shape, weight, 1e-6), "neg": _neg(x, 1)}
            return Prepared(lambda: rms_norm(x, weight, 1e-6), beside, check)

        yield Case("rms_norm", f"{rows} x {width}", alone, bytes=moved, goal=goal)

    for rows, width in _SIZES:
        moved = 8 * rows * width
        goal = 0.85 if moved >= 8 << 20 else None

        def added(rows: int = rows, width: int = width) -> Prepared:
            x, residual, weight = _random(rows, width), _random(rows, width), _random(width)

            def check() -> float:
                total = residual + x
                out = fused_add_rms_norm(x, residual, weight, 1e-6)
                return max(
                    relative_error(out, _normal(total) * weight.double()), relative_error(residual, total)
                )

            def torch_way() -> Tensor:
                return F.rms_norm(residual.add_(x), weight.shape, weight, 1e-6)

            beside = {"torch": torch_way, "neg": _neg(x, 2)}
            return Prepared(lambda: fused_add_rms_norm(x, residual, weight, 1e-6), beside, check)

        yield Case("fused_add_rms_norm", f"{rows} x {width}", added, bytes=moved, goal=goal)

    for rows, width in ((8192, 4096),):

        def centred(rows: int = rows, width: int = width) -> Prepared:
            x, weight, bias = _random(rows, width), _random(width), _random(width)

            def check() -> float:
                exact = F.layer_norm(x.double(), [width], weight.double(), bias.double(), 1e-6)
                return relative_error(layer_norm(x, weight, bias, 1e-6), exact)

            beside = {"torch": lambda: F.layer_norm(x, [width], weight, bias, 1e-6)}
            return Prepared(lambda: layer_norm(x, weight, bias, 1e-6), beside, check)

        moved = 4 * rows * width
        goal = 0.85 if moved >= 8 << 20 else None
        yield Case("layer_norm", f"{rows} x {width}", centred, bytes=moved, goal=goal)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda").bfloat16()


def _normal(x: Tensor) -> Tensor:
    exact = x.double()
    return exact * (exact.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def _neg(x: Tensor, times: int) -> Call:
    source, target = x.new_empty(2, times * x.numel()).normal_()
    return lambda: torch.neg(source, out=target)
