# SPDX-License-Identifier: Apache-2.0
"""Products with packed weights against numpy in float64, for few rows and many, with and without bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sgl_kernels import PackedWeight, linear

_ERROR = {torch.float32: 2e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 2, 31, 200])
@pytest.mark.parametrize(("outputs", "inputs"), [(576, 1536), (960, 576), (7, 5), (1, 3)])
@pytest.mark.parametrize("with_bias", [False, True])
@torch.inference_mode()
def test_product(dtype: torch.dtype, rows: int, outputs: int, inputs: int, with_bias: bool) -> None:
    generator = torch.Generator().manual_seed(rows * outputs + inputs)
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
    bias = torch.randn(outputs, generator=generator).to(dtype) if with_bias else None
    expected = x.double().numpy() @ weight.double().numpy().T
    if bias is not None:
        expected = expected + bias.double().numpy()
    y = PackedWeight(weight).multiply(x, bias)
    assert y.dtype == dtype and y.shape == (rows, outputs)
    assert np.linalg.norm(y.double().numpy() - expected) <= _ERROR[dtype] * np.linalg.norm(expected)


@torch.inference_mode()
def test_a_packed_weight_does_not_follow_the_tensor_it_was_made_of() -> None:
    """It is a copy: who packs may free the original."""
    weight = torch.eye(64)
    packed = PackedWeight(weight)
    weight.zero_()
    assert torch.equal(packed.multiply(torch.ones(2, 64)), torch.ones(2, 64))


@torch.inference_mode()
def test_shapes_with_more_dimensions_strides_and_no_rows() -> None:
    packed = PackedWeight(torch.randn(8, 4))
    assert packed.multiply(torch.randn(2, 3, 4)).shape == (2, 3, 8)
    assert packed.multiply(torch.randn(0, 4)).shape == (0, 8)
    wide = torch.randn(3, 10)
    assert torch.allclose(
        packed.multiply(wide[:, 3:7]), packed.multiply(wide[:, 3:7].contiguous()), atol=1e-6
    )


@torch.inference_mode()
def test_linear_is_the_packed_product_without_packing() -> None:
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(7, 9)[:, :5], torch.randn(7)
    torch.testing.assert_close(linear(x, weight, bias), torch.einsum("abk,nk->abn", x, weight) + bias)
    assert linear(x[:, :0], weight).shape == (2, 0, 7)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "argument"),
    [
        (torch.ones(2, 4, dtype=torch.int32), torch.ones(3, 4), None, "x"),
        (torch.ones(2, 4), torch.ones(3, 5), None, "weight"),
        (torch.ones(2, 4), torch.ones(3, 4).half(), None, "weight"),
        (torch.ones(2, 4), torch.ones(4, 3).t(), None, "weight"),
        (torch.ones(4, 2).t(), torch.ones(3, 4), None, "x"),
        (torch.ones(2, 4), torch.ones(3, 4), torch.ones(4), "bias"),
    ],
)
def test_what_linear_refuses(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, argument: str
) -> None:
    with pytest.raises(ValueError, match=f"^{argument}: "):
        linear(x, weight, bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_a_packed_weight_refuses(dtype: torch.dtype) -> None:
    weight = PackedWeight(torch.ones(3, 4, dtype=dtype))
    good = torch.ones(2, 4, dtype=dtype)
    for x in (good[:, :3], good.double(), good.repeat(2, 1).t(), torch.ones(())):
        with pytest.raises(ValueError, match=r"^x: "):
            weight.multiply(x)
    with pytest.raises(ValueError, match=r"^bias: "):
        weight.multiply(good, torch.ones(4, dtype=dtype))
    with pytest.raises(ValueError, match=r"^weight: "):
        PackedWeight(torch.ones(4, 3, dtype=dtype).t())
