# SPDX-License-Identifier: Apache-2.0
"""Products of few rows with the weights of Llama-3.1-8B."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from sgl_kernels import PackedWeight, linear
from sgl_kernels.bench.harness import Case, Prepared, relative_error

_WEIGHTS = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
_HEAD = {"lm_head": (128256, 4096)}


def cases() -> Iterator[Case]:
    for rows in (1, 2, 4, 16, 32):
        for name, (outputs, inputs) in (_WEIGHTS | _HEAD).items():

            def prepare(rows: int = rows, outputs: int = outputs, inputs: int = inputs) -> Prepared:
                x = torch.randn(rows, inputs, device="cuda").bfloat16()
                weight = torch.randn(outputs, inputs, device="cuda").bfloat16()
                packed = PackedWeight(weight)

                def check() -> float:
                    expected = x.double() @ weight.double().T
                    return max(relative_error(y, expected) for y in (linear(x, weight), packed.multiply(x)))

                others = {"without overlap": lambda: linear(x, weight), "torch": lambda: F.linear(x, weight)}
                return Prepared(lambda: packed.multiply(x), others, check)

            moved = 2 * (outputs * inputs + rows * (outputs + inputs))
            goal = 0.9 if rows == 1 else None
            yield Case("linear", f"{rows} x {name} {outputs} x {inputs}", prepare, bytes=moved, goal=goal)
