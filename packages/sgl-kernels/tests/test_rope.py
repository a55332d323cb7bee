# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding against transformers (frequencies, neox) and complex multiplication (interleaved)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from sgl_kernels import apply_rope, rope, rope_frequencies, rope_table, rotate

LLAMA_31 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
PHI_3 = {
    "short_factor": [1.0 + 0.01 * i for i in range(48)],
    "long_factor": [1.0 + 0.7 * i for i in range(48)],
    "type": "longrope",
    "original_max_position_embeddings": 4096,
}
DEEPSEEK = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.9,
}
# (rotary_dim, theta, scaling, max_position, context_length)
PUBLISHED: list[tuple[int, float, dict[str, Any], int, int | None]] = [
    (128, 500000.0, LLAMA_31, 131072, None),
    (64, 500000.0, LLAMA_31 | {"factor": 32.0}, 131072, None),
    (128, 10000.0, {"type": "linear", "factor": 4}, 16384, None),
    (64, 10000.0, {"rope_type": "linear", "factor": 2.5}, 4096, None),
    (128, 10000.0, {"type": "dynamic", "factor": 2.0}, 4096, None),
    (128, 10000.0, {"type": "dynamic", "factor": 2.0}, 4096, 2048),
    (128, 10000.0, {"type": "dynamic", "factor": 4.0}, 4096, 10000),
    (128, 1e6, {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}, 32768, None),
    (64, 10000.0, DEEPSEEK, 163840, None),
    (64, 10000.0, {"type": "yarn", "factor": 8.0, "attention_factor": 1.5, "truncate": False}, 4096, None),
    (
        64,
        150000.0,
        {"rope_type": "yarn", "original_max_position_embeddings": 4096, "factor": None},
        131072,
        None,
    ),
    (96, 10000.0, PHI_3, 131072, None),
    (96, 10000.0, PHI_3, 131072, 4096),
    (96, 10000.0, PHI_3 | {"attention_factor": 1.25}, 131072, 5000),
]


@pytest.mark.parametrize(("rotary_dim", "theta", "scaling", "max_position", "context_length"), PUBLISHED)
def test_frequencies_are_those_of_transformers(
    rotary_dim: int, theta: float, scaling: dict[str, Any], max_position: int, context_length: int | None
) -> None:
    kind = str(scaling.get("rope_type", scaling.get("type")))
    config = LlamaConfig(
        hidden_size=rotary_dim * 4,
        num_attention_heads=4,
        max_position_embeddings=max_position,
        rope_parameters={**scaling, "rope_theta": theta, "rope_type": kind},
    )
    theirs, their_factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=context_length or max_position)
    ours, factor = rope_frequencies(rotary_dim, theta, scaling, max_position, context_length=context_length)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=3e-7, atol=0)
    assert factor == pytest.approx(their_factor, rel=1e-12)


@pytest.mark.parametrize("scaling", [None, {}, {"rope_type": "default"}, {"type": "default"}])
def test_plain_frequencies(scaling: dict[str, Any] | None) -> None:
    ours, factor = rope_frequencies(64, 10000.0, scaling, 2048)
    np.testing.assert_allclose(ours.numpy(), 10000.0 ** -(np.arange(0, 64, 2) / 64), rtol=1e-6)
    assert factor == 1.0


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"type": "mrope"}, r"rope_type 'mrope' is not supported; supported: default, linear"),
        ({"type": "linear"}, "factor is missing"),
        ({"type": "linear", "factor": "2"}, "factor must be a positive number, not '2'"),
        ({"type": "linear", "factor": -1}, "factor must be a positive number"),
        ({"type": "linear", "factor": float("nan")}, "factor must be a positive number"),
        ({**LLAMA_31, "low_freq_factor": 4.0}, "low_freq_factor must be below high_freq_factor"),
        ({**PHI_3, "long_factor": [1.0]}, "long_factor must be a list of 48 numbers"),
        ({**PHI_3, "long_factor": ["a"] * 48}, "long_factor must be a list of 48 numbers"),
        ({**PHI_3, "original_max_position_embeddings": None}, "original_max_position_embeddings is missing"),
    ],
)
def test_scalings_that_are_refused(scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rope_frequencies(96, 10000.0, scaling, 131072)


def tables(rotary_dim: int, positions: Tensor, interleaved: bool = False) -> tuple[Tensor, Tensor]:
    frequencies, _ = rope_frequencies(rotary_dim, 10000.0, None, 4096)
    cos, sin = rope_table(frequencies, 1.5, 4096, interleaved=interleaved)
    assert cos.shape == sin.shape == (4096, rotary_dim)
    return cos[positions], sin[positions]


@pytest.mark.parametrize("tokens", [1, 7])
def test_neox_is_that_of_transformers(tokens: int) -> None:
    positions = torch.randint(4096, (tokens,))
    q, k = torch.randn(tokens, 6, 64), torch.randn(tokens, 2, 64)
    frequencies, _ = rope_frequencies(64, 10000.0, None, 4096)
    angles = torch.outer(positions.float(), frequencies)
    angles = torch.cat((angles, angles), -1)[None]
    their_q, their_k = apply_rotary_pos_emb(
        q.transpose(0, 1)[None], k.transpose(0, 1)[None], angles.cos() * 1.5, angles.sin() * 1.5
    )
    apply_rope(q, k, *tables(64, positions))
    torch.testing.assert_close(q, their_q[0].transpose(0, 1))
    torch.testing.assert_close(k, their_k[0].transpose(0, 1))


@pytest.mark.parametrize("rotary_dim", [64, 32])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_is_complex_multiplication(rotary_dim: int, interleaved: bool) -> None:
    positions = torch.tensor([0, 5, 4095])
    x = torch.randn(3, 4, 64)
    angles = positions[:, None].double() * torch.from_numpy(
        10000.0 ** -(np.arange(0, rotary_dim, 2) / rotary_dim)
    )
    turned = x[..., :rotary_dim].double()
    half = rotary_dim // 2
    pairs = turned.view(3, 4, half, 2) if interleaved else turned.view(3, 4, 2, half).transpose(-1, -2)
    product = (
        torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.full_like(angles, 1.5), angles)[:, None]
    )
    pairs = torch.view_as_real(product)
    turned = pairs.flatten(-2) if interleaved else pairs.transpose(-1, -2).flatten(-2)
    before = x.clone()
    rotate(x, *tables(rotary_dim, positions, interleaved), interleaved=interleaved)
    torch.testing.assert_close(x[..., :rotary_dim].double(), turned, rtol=1e-3, atol=1e-3)
    assert torch.equal(x[..., rotary_dim:], before[..., rotary_dim:])


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_of_one_buffer_are_rotated_together(
    tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    cos, sin = tables(64, torch.arange(tokens))
    buffer = torch.randn(tokens, 15 * 64).to(dtype)
    apart = buffer.view(tokens, 15, 64).clone()
    rotate(apart[:, :9], cos, sin)
    rotate(apart[:, 9:12], cos, sin)
    shapes = spy_on_rotate(monkeypatch)
    by_heads, by_columns = buffer.clone(), buffer.clone()
    heads = by_heads.view(tokens, 15, 64)
    apply_rope(heads[:, :9], heads[:, 9:12], cos, sin)
    q, k = by_columns[:, :576], by_columns[:, 576:768]
    apply_rope(q.view(tokens, 9, 64), k.view(tokens, 3, 64), cos, sin)
    for rotated in (by_heads, by_columns):
        assert torch.equal(rotated.view(tokens, 15, 64), apart)
    narrow = torch.randn(tokens, 12, 70, dtype=dtype)
    apply_rope(narrow[:, :9, :64], narrow[:, 9:, :64], cos, sin)
    assert shapes == [(tokens, 12, 64)] * 3


def test_neighbours_that_are_not_one_buffer_are_rotated_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = spy_on_rotate(monkeypatch)
    cos, sin = tables(8, torch.arange(2))
    block = torch.randn(80)
    heads = torch.randn(2, 6, 8)
    apply_rope(block[:48].view(2, 3, 8), block[48:64].view(2, 1, 8), cos, sin)  # k begins where q ends
    apply_rope(heads[:, :3], heads[:, 4:], cos, sin)  # a head between them
    apply_rope(heads[:, :2], heads[:, 2::2], cos, sin)  # every second head
    wider = block.as_strided((2, 1, 8), (40, 8, 1), 24)
    apply_rope(
        block.as_strided((2, 3, 8), (32, 8, 1), 0), wider, cos, sin
    )  # only the first token's heads meet
    assert shapes == [(2, 3, 8), (2, 1, 8), (2, 3, 8), (2, 2, 8), (2, 2, 8), (2, 2, 8), (2, 3, 8), (2, 1, 8)]


def spy_on_rotate(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    shapes = []

    def spy(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> None:
        shapes.append(x.shape)
        rotate(x, cos, sin, interleaved=interleaved)

    monkeypatch.setattr(rope, "rotate", spy)
    return shapes


def test_tables_in_float32_round_once() -> None:
    positions = torch.arange(100)
    cos, sin = tables(64, positions)
    x = torch.randn(100, 3, 64).bfloat16()
    exact = x.double()
    rotate(exact, cos.double(), sin.double())
    rotate(x, cos, sin)
    torch.testing.assert_close(x, exact.bfloat16(), rtol=2**-8, atol=0)
