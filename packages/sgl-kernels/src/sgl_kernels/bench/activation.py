# SPDX-License-Identifier: Apache-2.0
"""Gated activations at the widths of 8B and 70B models."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from sgl_kernels import gelu_and_mul, silu_and_mul
from sgl_kernels.bench.harness import Case, Prepared, relative_error


def cases() -> Iterator[Case]:
    for rows, width in ((1, 14336), (64, 14336), (512, 14336), (8192, 14336), (4096, 28672)):

        def prepare(rows: int = rows, width: int = width) -> Prepared:
            x = torch.randn(rows, 2 * width, device="cuda").bfloat16()

            def check() -> float:
                gate, up = x.double().chunk(2, -1)
                return max(
                    relative_error(silu_and_mul(x), F.silu(gate) * up),
                    relative_error(gelu_and_mul(x), F.gelu(gate) * up),
                    relative_error(
                        gelu_and_mul(x, approximate="tanh"), F.gelu(gate, approximate="tanh") * up
                    ),
                )

            def torch_way() -> torch.Tensor:
                gate, up = x.chunk(2, -1)
                return F.silu(gate) * up

            return Prepared(lambda: silu_and_mul(x), {"torch": torch_way}, check)

        moved = rows * width * 6
        goal = 0.85 if moved >= 8 << 20 else None
        yield Case("silu_and_mul", f"{rows} x {width}", prepare, bytes=moved, goal=goal)
