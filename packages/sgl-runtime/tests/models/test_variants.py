# SPDX-License-Identifier: Apache-2.0
"""What the configs of one family say differently from one model to the next, each against its reference."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, make_runner
from pair import Pair, TwoRanks
from plain import PLAIN, Reference
from safetensors.torch import load_file, save_file
from tiny_checkpoint import write_checkpoint
from transformers import AutoModelForCausalLM

from sgl_runtime.checkpoint.config import read_config
from sgl_runtime.errors import ConfigError
from sgl_runtime.models import model_class

LENGTH = 80
LONG_ROPE = {
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "short_factor": [1.0] * 8,
        "long_factor": [1.0, 1.5, 2.0, 4.0, 6.0, 8.0, 8.0, 9.0],
    },
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "qwen 2 with as many KV heads": ("qwen2", {"num_key_value_heads": 6}),
    "qwen 2.5 with yarn": (
        "qwen2",
        {
            "use_sliding_window": False,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        },
    ),
    "qwen 3 with a window": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
    ),
    "gemma with one KV head": ("gemma", {"num_key_value_heads": 1, "head_dim": 8}),
    "gemma 2 without caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "stablelm 2 12B": ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True}),
    "stablelm 2 1.6B": ("stablelm", {"use_qkv_bias": True, "num_key_value_heads": 6}),
    "stablelm zephyr": ("stablelm", {"use_qkv_bias": False}),
    "command-r v01": ("cohere", {"use_qk_norm": False, "logit_scale": 0.0625}),
    "command-r with biases": ("cohere", {"attention_bias": True}),
    "phi-3 mini 128k beyond 4k": ("phi3", LONG_ROPE),
    "phi-3 mini 4k": ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "gpt-bigcode with as many KV heads": ("gpt_bigcode", {"multi_query": False}),
    "gpt-bigcode with a width of its own": (
        "gpt_bigcode",
        {"n_inner": 77, "activation_function": "gelu", "scale_attn_weights": False},
    ),
    "chatglm with biases and layer norms": ("chatglm", {"add_bias_linear": True, "rmsnorm": False}),
    "chatglm 2": ("chatglm", {"rope_ratio": 1}),
    "qwen 2 moe that renormalises": ("qwen2_moe", {"norm_topk_prob": True, "decoder_sparse_step": 2}),
    "deepseek moe that renormalises": ("deepseek", {"norm_topk_prob": True}),
    "deepseek v2 lite": ("deepseek_v2", {"q_lora_rank": None, "topk_method": "greedy"}),
    "deepseek v3 without its weights' sum": ("deepseek_v3", {"norm_topk_prob": False}),
    "dbrx with as many KV heads": (
        "dbrx",
        {"attn_config": {"clip_qkv": 0.25, "kv_n_heads": 6, "rope_theta": 10000.0}},
    ),
    "internlm 2 without biases": ("internlm2", {"bias": False, "rope_theta": 1000000.0}),
}


def tiny(family: str, change: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = importlib.import_module(f"sgl_runtime.models.{family}").TINY
    return config | change


def expected(folder: Path, config: dict[str, Any], prompt: torch.Tensor) -> torch.Tensor:
    """Write the checkpoint; log-probabilities after the prompt."""
    if config["model_type"] in PLAIN:
        return Reference(folder, config).logits(prompt)[-1].log_softmax(-1)
    model = AutoModelForCausalLM.from_pretrained(
        write_checkpoint(folder, config),
        dtype=torch.float32,
        experts_implementation="eager",  # another wants widths that are multiples of four
    )
    with torch.no_grad():
        logits: torch.Tensor = model(prompt[None]).logits[0, -1].log_softmax(-1)
    return logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(variant: str, tmp_path: Path, pair: Pair) -> None:
    """Alone, and divided over two ranks."""
    config = tiny(*VARIANTS[variant])
    prompt = torch.randint(3, 264, (LENGTH,), generator=torch.Generator().manual_seed(3))
    wanted = expected(tmp_path, config, prompt)
    _, logprobs = Driver(make_runner(tmp_path)).distribution(0, prompt.tolist())
    torch.testing.assert_close(logprobs, wanted, atol=1e-4, rtol=0)
    pair.tell("make", tmp_path, {})
    ranks = Driver(TwoRanks(pair, make_runner(tmp_path, tp=pair.tp)))  # type: ignore[arg-type]
    _, logprobs = ranks.distribution(0, prompt.tolist())
    torch.testing.assert_close(logprobs, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "change", "options", "message"),
    [
        ("gemma3_text", {"use_bidirectional_attention": True}, {}, "use_bidirectional_attention"),
        ("qwen", {}, {"context_length": 513}, "--context-length 513: Qwen 1 is served up to the 512"),
        ("gpt_bigcode", {}, {"context_length": 513}, "--context-length 513: this model knows 512 positions"),
        ("chatglm", {"multi_query_attention": False}, {}, "multi_query_attention must be true"),
        ("chatglm", {"add_qkv_bias": "yes"}, {}, "add_qkv_bias must be true or false"),
        ("mixtral", {"num_experts_per_tok": 6}, {}, "num_experts_per_tok is 6, and a token chooses from 5"),
        ("qwen2_moe", {"shared_expert_intermediate_size": 31}, {}, "a multiple of moe_intermediate_size, 15"),
        ("deepseek", {"scoring_func": "sigmoid"}, {}, "scoring_func must be softmax"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, {}, "topk_method must be greedy or group_limited"),
        ("deepseek_v2", {"q_lora_rank": None, "attention_bias": True}, {}, "attention_bias must be false"),
        ("deepseek_v3", {"quantization_config": {"quant_method": "fp8"}}, {}, "quant_method 'fp8'"),
        ("dbrx", {"moe_normalize_expert_weights": 2}, {}, "moe_normalize_expert_weights must be 1"),
        ("minicpm", {"scale_depth": -1}, {}, "scale_depth must be a positive number"),
    ],
)
def test_what_a_family_cannot_do_is_refused_by_name(
    family: str, change: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = tiny(family, {})
    if family in PLAIN:
        Reference(tmp_path, config)
    else:
        write_checkpoint(tmp_path, config)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        make_runner(tmp_path, **options)


def test_old_names_of_a_family_are_found(tmp_path: Path) -> None:
    """StableLM's first releases: another model_type, class and field names, and tables in the checkpoint."""
    write_checkpoint(tmp_path, tiny("stablelm", {}))
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config["rope_parameters"], config["layer_norm_eps"]
    config |= {
        "model_type": "stablelm_epoch",
        "architectures": ["StableLMEpochForCausalLM"],
        "norm_eps": 1e-5,
        "rope_pct": 0.25,
    }
    file.write_text(json.dumps(config))
    weights = tmp_path / "model.safetensors"
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}
    save_file(load_file(weights) | table, weights)
    assert model_class(read_config(tmp_path)).__name__ == "StableLMEpochForCausalLM"
    assert read_config(tmp_path).rope.rotary_dim == 4
    make_runner(tmp_path)


def test_layers_that_predict_further_tokens_stay_unread(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, tiny("deepseek_v3", {}))
    weights = tmp_path / "model.safetensors"
    further = {"model.layers.3.eh_proj.weight": torch.zeros(2, 2)}
    save_file(load_file(weights) | further, weights)
    make_runner(tmp_path)
    save_file(load_file(weights) | {"model.layers.4.eh_proj.weight": torch.zeros(2, 2)}, weights)
    with pytest.raises(ConfigError, match=r"1 without a place: model\.layers\.4\.eh_proj\.weight"):
        make_runner(tmp_path)
