# SPDX-License-Identifier: Apache-2.0
"""The variants of the Llama family that a config.json can ask for, each against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, make_runner
from pair import Pair, TwoRanks
from safetensors.torch import load_file, save_file
from tiny_checkpoint import ROPE_SCALING, write_checkpoint
from transformers import AutoModelForCausalLM

from sgl_runtime.errors import ConfigError
from sgl_runtime.models.llama import TINY

PROMPT = torch.randint(3, TINY["vocab_size"], (1, 80), generator=torch.Generator().manual_seed(3))

_VARIANTS: dict[str, dict[str, Any]] = {
    "untied": {"tie_word_embeddings": False},
    "attention bias": {"attention_bias": True},
    "mlp bias": {"mlp_bias": True, "tie_word_embeddings": False},
    "head_dim from the width": {"head_dim": None},
    "head_dim of its own": {"head_dim": 20},
    "one KV head": {"num_key_value_heads": 1},
    "no grouping": {"num_key_value_heads": 6},
    "gelu": {"hidden_act": "gelu"},
    "gelu, approximately": {"hidden_act": "gelu_pytorch_tanh"},
    "large theta": {"rope_theta": 500000.0},
} | {f"rope scaling {name}": {"rope_scaling": dict(scaling)} for name, scaling in ROPE_SCALING.items()}


def check(folder: Path, driver: Driver, prompt: torch.Tensor = PROMPT) -> None:
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = reference(prompt).logits[0, -1].log_softmax(-1)
    _, logprobs = driver.distribution(0, prompt[0].tolist())
    torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", sorted(_VARIANTS))
def test_variants(variant: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TINY | _VARIANTS[variant])
    # Without "dynamic" reaching beyond the length it was trained for, which is the next test.
    check(tmp_path, Driver(make_runner(tmp_path, context_length=TINY["max_position_embeddings"])))


def test_dynamic_scaling_beyond_the_trained_length(tmp_path: Path) -> None:
    """Keys are cached rotated, so the frequencies are those of the longest sequence that is served."""
    write_checkpoint(
        tmp_path, TINY | {"max_position_embeddings": 32, "rope_scaling": dict(ROPE_SCALING["dynamic"])}
    )
    check(tmp_path, Driver(make_runner(tmp_path, context_length=PROMPT.shape[1])))


def test_biases_enter_the_sum_of_two_ranks_once(tmp_path: Path, pair: Pair) -> None:
    write_checkpoint(
        tmp_path, TINY | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}
    )
    pair.tell("make", tmp_path, {})
    check(tmp_path, Driver(TwoRanks(pair, make_runner(tmp_path, tp=pair.tp))))  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
def test_two_ranks_share_an_odd_vocabulary(tied: bool, tmp_path: Path, pair: Pair) -> None:
    write_checkpoint(tmp_path, TINY | {"vocab_size": 265, "tie_word_embeddings": tied})
    pair.tell("make", tmp_path, {})
    check(tmp_path, Driver(TwoRanks(pair, make_runner(tmp_path, tp=pair.tp))))  # type: ignore[arg-type]


def test_two_ranks_share_the_only_kv_head(tmp_path: Path, pair: Pair) -> None:
    write_checkpoint(tmp_path, TINY | {"num_key_value_heads": 1})
    pair.tell("make", tmp_path, {})
    check(tmp_path, Driver(TwoRanks(pair, make_runner(tmp_path, tp=pair.tp))))  # type: ignore[arg-type]


def test_a_tied_checkpoint_may_store_the_head_too(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    make_runner(tmp_path)


def test_tables_that_are_computed_may_be_stored(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}, file)
    make_runner(tmp_path)


def test_an_untied_checkpoint_must_store_the_head(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TINY | {"tie_word_embeddings": False})
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["lm_head.weight"]
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=r"1 missing: lm_head\.weight$"):
        make_runner(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu2"}, "hidden_act 'relu2'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_type"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, TINY | change)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"linear"', '"cubic"'))
    with pytest.raises(ConfigError, match=message):
        make_runner(tmp_path)
