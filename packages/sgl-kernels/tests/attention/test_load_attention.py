# SPDX-License-Identifier: Apache-2.0
"""The choice of an attention backend."""

from __future__ import annotations

import pytest
import torch

from sgl_kernels import AttentionSpec, load_attention

CPU = torch.device("cpu")
SPEC = AttentionSpec(6, 2, 16, 16, 0.25)


@pytest.mark.parametrize("name", [None, "reference"])
def test_the_reference_supports_every_width(name: str | None) -> None:
    specs = [SPEC, AttentionSpec(16, 1, 576, 512, 0.1), AttentionSpec(6, 2, 16, 16, 0.25, 4096, 50.0)]
    assert load_attention(name, specs, CPU).name == "reference"


@pytest.mark.parametrize("name", ["triton", "flashinfer"])
def test_a_backend_of_other_devices_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be used: it needs a CUDA device, not cpu"):
        load_attention(name, [SPEC], CPU)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'flash'.*reference"):
        load_attention("flash", [SPEC], CPU)


@pytest.mark.parametrize(
    "spec", [AttentionSpec(5, 2, 16, 16, 0.25), AttentionSpec(4, 2, 16, 16, 0.25, window=0)]
)
def test_a_spec_without_meaning_is_refused(spec: AttentionSpec) -> None:
    with pytest.raises(ValueError, match="reference does not support AttentionSpec"):
        load_attention(None, [SPEC, spec], CPU)
