# SPDX-License-Identifier: Apache-2.0
"""Rotary frequencies against those of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sgl_kernels import rope_frequencies

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
