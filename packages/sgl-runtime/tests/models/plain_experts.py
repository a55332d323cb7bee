# SPDX-License-Identifier: Apache-2.0
"""As `plain.py`: the mixtures of experts that transformers does not have, token by token and expert by
expert."""

from __future__ import annotations

import math

import torch
from plain_parts import Config, Shapes, Weights, attend, linear, rms, rotate_halves, silu
from torch import Tensor


def deepseek_shapes(c: Config) -> Shapes:
    h = c["hidden_size"]
    kv = h // c["num_attention_heads"] * c["num_key_value_heads"]
    shapes: Shapes = {"model.embed_tokens.weight": (c["vocab_size"], h), "model.norm.weight": (h,)}

    def mlp(name: str, width: int) -> Shapes:
        return {
            f"{name}.gate_proj.weight": (width, h),
            f"{name}.up_proj.weight": (width, h),
            f"{name}.down_proj.weight": (h, width),
        }

    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}"
        shapes |= {
            f"{name}.input_layernorm.weight": (h,),
            f"{name}.self_attn.q_proj.weight": (h, h),
            f"{name}.self_attn.k_proj.weight": (kv, h),
            f"{name}.self_attn.v_proj.weight": (kv, h),
            f"{name}.self_attn.o_proj.weight": (h, h),
            f"{name}.post_attention_layernorm.weight": (h,),
        }
        if i < c["first_k_dense_replace"]:
            shapes |= mlp(f"{name}.mlp", c["intermediate_size"])
            continue
        shapes[f"{name}.mlp.gate.weight"] = (c["n_routed_experts"], h)
        for expert in range(c["n_routed_experts"]):
            shapes |= mlp(f"{name}.mlp.experts.{expert}", c["moe_intermediate_size"])
        shapes |= mlp(f"{name}.mlp.shared_experts", c["moe_intermediate_size"] * c["n_shared_experts"])
    return shapes | {"lm_head.weight": (c["vocab_size"], h)}


def deepseek_logits(c: Config, w: Weights, tokens: Tensor) -> Tensor:
    """modeling_deepseek.py of deepseek-ai/deepseek-moe-16b-base."""
    d = c["hidden_size"] // c["num_attention_heads"]
    x, eps = w["model.embed_tokens.weight"][tokens], c["rms_norm_eps"]

    def mlp(name: str, y: Tensor) -> Tensor:
        active = silu(linear(w, f"{name}.gate_proj", y)) * linear(w, f"{name}.up_proj", y)
        return linear(w, f"{name}.down_proj", active)

    def mixture(name: str, y: Tensor) -> Tensor:
        """Of one token, y [hidden]."""
        scores = linear(w, f"{name}.gate", y).softmax(-1)
        best = sorted(range(len(scores)), key=lambda expert: -float(scores[expert]))
        chosen = {expert: scores[expert] for expert in best[: c["num_experts_per_tok"]]}
        total = sum(chosen.values()) if c["norm_topk_prob"] else 1.0
        out = mlp(f"{name}.shared_experts", y)
        for expert, score in chosen.items():
            out = out + mlp(f"{name}.experts.{expert}", y) * score / total
        return out

    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}"
        y = rms(x, w[f"{name}.input_layernorm.weight"], eps)
        q, k, v = (linear(w, f"{name}.self_attn.{p}_proj", y).view(len(tokens), -1, d) for p in "qkv")
        y = attend(rotate_halves(q, c["rope_theta"]), rotate_halves(k, c["rope_theta"]), v)
        x = x + linear(w, f"{name}.self_attn.o_proj", y)
        y = rms(x, w[f"{name}.post_attention_layernorm.weight"], eps)
        if i < c["first_k_dense_replace"]:
            x = x + mlp(f"{name}.mlp", y)
        else:
            x = x + torch.stack([mixture(f"{name}.mlp", token) for token in y])
    return linear(w, "lm_head", rms(x, w["model.norm.weight"], eps))


def grok_shapes(c: Config) -> Shapes:
    h, ffn = c["hidden_size"], c["intermediate_size"]
    kv = h // c["num_attention_heads"] * c["num_key_value_heads"]
    shapes: Shapes = {"model.embed_tokens.weight": (c["vocab_size"], h), "model.norm.scale": (h,)}
    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}"
        shapes |= {
            **{
                f"{name}.{when}_norm.scale": (h,) for when in ("pre_attn", "post_attn", "pre_moe", "post_moe")
            },
            f"{name}.attn.q_proj.weight": (h, h),
            f"{name}.attn.k_proj.weight": (kv, h),
            f"{name}.attn.v_proj.weight": (kv, h),
            f"{name}.attn.o_proj.weight": (h, h),
            f"{name}.moe_block.gate.weight": (c["num_experts"], h),
        }
        for expert in range(c["num_experts"]):
            shapes |= {
                f"{name}.moe_block.experts.{expert}.linear.weight": (ffn, h),
                f"{name}.moe_block.experts.{expert}.linear_v.weight": (ffn, h),
                f"{name}.moe_block.experts.{expert}.linear_1.weight": (h, ffn),
            }
    return shapes


def grok_logits(c: Config, w: Weights, tokens: Tensor) -> Tensor:
    """model.py of xai-org/grok-1, with the names of hpcai-tech/grok-1; all experts are computed, as there."""
    d, eps = c["hidden_size"] // c["num_attention_heads"], c["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][tokens] * c["embedding_multiplier_scale"]
    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}"
        y = rms(x, w[f"{name}.pre_attn_norm.scale"], eps)
        q, k, v = (linear(w, f"{name}.attn.{p}_proj", y).view(len(tokens), -1, d) for p in "qkv")
        q, k = rotate_halves(q, 10000), rotate_halves(k, 10000)
        y = attend(q, k, v, scale=c["attn_output_multiplier"], cap=c["max_attn_value"])
        x = x + rms(linear(w, f"{name}.attn.o_proj", y), w[f"{name}.post_attn_norm.scale"], eps)
        y = rms(x, w[f"{name}.pre_moe_norm.scale"], eps)
        scores = linear(w, f"{name}.moe_block.gate", y).softmax(-1)
        least = scores.sort(-1, descending=True).values[:, c["num_experts_per_tok"] - 1, None]
        made = torch.zeros_like(y)
        for expert in range(c["num_experts"]):
            part = f"{name}.moe_block.experts.{expert}"
            gate = linear(w, f"{part}.linear", y)
            gate = gate / 2 * (1 + (math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)).tanh())
            out = linear(w, f"{part}.linear_1", gate * linear(w, f"{part}.linear_v", y))
            score = scores[:, expert, None]
            made = made + torch.where(score >= least, out * score, 0.0)
        x = x + rms(made, w[f"{name}.post_moe_norm.scale"], eps)
    x = rms(x, w["model.norm.scale"], eps)
    return x @ w["model.embed_tokens.weight"].T * c["output_multiplier_scale"]
