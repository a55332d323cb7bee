# SPDX-License-Identifier: Apache-2.0
"""Which passes have graphs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from driver import make_runner

from sgl_runtime.models.llama import TINY
from sgl_runtime.runner.graphs import mixed_sizes, most_tokens


def test_passes_with_prompts_have_graphs_while_they_take_longer_to_launch_than_to_compute() -> None:
    assert most_tokens(24, 2_500_000_000) == 1920  # 24 ms, of which a token takes 12.5 us
    assert most_tokens(32, 7_000_000_000) == 1024  # Llama-3.1-8B: 32 ms, and 35 us
    assert most_tokens(2, 1) == most_tokens(2, 0) == 2048


def test_large_sizes_go_up_by_a_sixth_at_most() -> None:
    sizes = mixed_sizes(2048)
    assert sizes[-1] == 2048 and mixed_sizes(1500)[-1] == 1408
    assert all(b <= a * 7 / 6 for a, b in pairwise(sizes) if a >= 896)


def test_a_model_knows_what_a_token_costs(tiny: Path) -> None:
    heads = TINY["num_attention_heads"] + 2 * TINY["num_key_value_heads"]
    attention = TINY["hidden_size"] * TINY["head_dim"] * (heads + TINY["num_attention_heads"])
    mlp = 3 * TINY["hidden_size"] * TINY["intermediate_size"]
    products = make_runner(tiny)._model.products_of_layers()
    assert products == TINY["num_hidden_layers"] * (attention + mlp)


def test_ranks_with_different_shares_have_the_same_graphs(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Capturing is done together: one graph more on one rank would wait for the other for ever."""
    runner, other = make_runner(tiny), torch.tensor([7_000_000_000])
    assert runner._most_tokens(32) == 2048
    both = SimpleNamespace(
        size=2, device=torch.device("cpu"), all_gather=lambda mine, _: torch.cat((mine, other))
    )
    monkeypatch.setattr(runner, "_tp", both)
    assert runner._most_tokens(32) == 1024
