# SPDX-License-Identifier: Apache-2.0
"""Merged states are the state of all tokens; empty states count for nothing."""

from __future__ import annotations

import pytest
import torch

from sgl_kernels import merge_states


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attention_in_parts_is_attention(dtype: torch.dtype) -> None:
    scores, values = 9 * torch.randn(5, 3, 40).double(), torch.randn(40, 8).double()
    parts = [slice(0, 1), slice(1, 30), slice(30, 40)]
    out = torch.stack([scores[..., part].softmax(-1) @ values[part] for part in parts], 1)
    lse = torch.stack([scores[..., part].logsumexp(-1) for part in parts], 1)
    merged, total = merge_states(out.to(dtype), lse.float())
    assert merged.dtype == dtype and total.dtype == torch.float32
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(merged.double(), scores.softmax(-1) @ values, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(total.double(), scores.logsumexp(-1), rtol=1e-5, atol=1e-5)


def test_empty_states() -> None:
    out, lse = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4)
    lse[0, :, 1] = float("-inf")
    lse[1, 2, 2] = float("-inf")
    out[lse == float("-inf")] = float("nan")  # not looked at
    merged, total = merge_states(out, lse)
    assert (merged[0, 1] == 0).all() and total[0, 1] == float("-inf")
    expected, _ = merge_states(out[1:, :2, 2:3], lse[1:, :2, 2:3])
    torch.testing.assert_close(merged[1:, 2:3], expected)
    assert merged.isfinite().all()


def test_no_state_at_all() -> None:
    merged, total = merge_states(torch.randn(2, 0, 3, 8), torch.randn(2, 0, 3))
    assert (merged == torch.zeros(2, 3, 8)).all() and (total == torch.full((2, 3), float("-inf"))).all()
    assert merge_states(torch.randn(0, 2, 3, 8), torch.randn(0, 2, 3))[0].shape == (0, 3, 8)


def test_what_is_refused() -> None:
    out, lse = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 4)
    for arguments, name in (
        ((out[0], lse), "out"),
        ((out.int(), lse), "out"),
        ((out.transpose(2, 3), lse), "out"),
        ((out, lse[:, :2]), "lse"),
        ((out, lse.double()), "lse"),
    ):
        with pytest.raises(ValueError, match=f"{name}: "):
            merge_states(*arguments)
