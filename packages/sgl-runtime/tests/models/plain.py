# SPDX-License-Identifier: Apache-2.0
"""The models that transformers does not have, written down once more from what their publishers released.

Each is one function from the weights under their published names to the logits of every position: whole
sequences, no cache, plain tensor operations, float64. It shares nothing with the server, not even the reading
of a config: what a field means is said here again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from plain_experts import deepseek_logits, deepseek_shapes, grok_logits, grok_shapes
from plain_parts import (
    Config,
    Shapes,
    Weights,
    attend,
    layer_norm,
    linear,
    rms,
    rotate_halves,
    rotate_neighbours,
    silu,
)
from safetensors.torch import save_file
from tiny_checkpoint import write_tokenizer
from torch import Tensor


@dataclass(frozen=True)
class Plain:
    """One architecture: what a checkpoint of this config stores, and what it computes.

    logits: (config, weights, tokens [T]) -> [T, vocabulary].
    """

    shapes: Callable[[Config], Shapes]
    logits: Callable[[Config, Weights, Tensor], Tensor]


class Reference:
    """A random checkpoint and its model, with the part of transformers' interface that tests use."""

    def __init__(self, folder: Path, config: Config, *, seed: int = 0) -> None:
        self._plain = PLAIN[config["model_type"]]
        self._config = config
        generator = torch.Generator().manual_seed(seed)
        self.weights = {
            name: _random(name, shape, generator) for name, shape in self._plain.shapes(config).items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        save_file(self.weights, folder / "model.safetensors", metadata={"format": "pt"})
        write_tokenizer(folder)

    def logits(self, tokens: Tensor) -> Tensor:
        """[T] -> [T, vocabulary] float32."""
        weights = {name: tensor.double() for name, tensor in self.weights.items()}
        return self._plain.logits(self._config, weights, tokens).float()


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """As `tiny_checkpoint` has it: norms and biases that are not neutral, blocks that outweigh embeddings."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return 0.2 * noise + (0.0 if name.endswith("bias") else 1.0)
    embedding = any(word in name for word in ("embed", "wte"))
    return noise * (1.0 if embedding else 2.0) * shape[-1] ** -0.5


def qwen_shapes(c: Config) -> Shapes:
    h, half, inner = (
        c["hidden_size"],
        c["intermediate_size"] // 2,
        c["kv_channels"] * c["num_attention_heads"],
    )
    shapes: Shapes = {"transformer.wte.weight": (c["vocab_size"], h), "transformer.ln_f.weight": (h,)}
    for i in range(c["num_hidden_layers"]):
        shapes |= {
            f"transformer.h.{i}.{name}": shape
            for name, shape in {
                "ln_1.weight": (h,),
                "attn.c_attn.weight": (3 * inner, h),
                "attn.c_attn.bias": (3 * inner,),
                "attn.c_proj.weight": (h, inner),
                "ln_2.weight": (h,),
                "mlp.w1.weight": (half, h),
                "mlp.w2.weight": (half, h),
                "mlp.c_proj.weight": (h, half),
            }.items()
        }
    return shapes | {"lm_head.weight": (c["vocab_size"], h)}


def qwen_logits(c: Config, w: Weights, tokens: Tensor) -> Tensor:
    """modeling_qwen.py of Qwen/Qwen-7B: `a1 = w1(x); a2 = w2(x); c_proj(a1 * silu(a2))`."""
    x, eps = w["transformer.wte.weight"][tokens], c["layer_norm_epsilon"]
    heads = (len(tokens), c["num_attention_heads"], c["kv_channels"])
    for i in range(c["num_hidden_layers"]):
        name = f"transformer.h.{i}"
        q, k, v = linear(w, f"{name}.attn.c_attn", rms(x, w[f"{name}.ln_1.weight"], eps)).chunk(3, -1)
        q, k = (rotate_halves(each.view(heads), c["rotary_emb_base"]) for each in (q, k))
        x = x + linear(w, f"{name}.attn.c_proj", attend(q, k, v.view(heads)))
        y = rms(x, w[f"{name}.ln_2.weight"], eps)
        y = linear(w, f"{name}.mlp.w1", y) * silu(linear(w, f"{name}.mlp.w2", y))
        x = x + linear(w, f"{name}.mlp.c_proj", y)
    return linear(w, "lm_head", rms(x, w["transformer.ln_f.weight"], eps))


def chatglm_shapes(c: Config) -> Shapes:
    h, ffn, d = c["hidden_size"], c["ffn_hidden_size"], c["kv_channels"]
    inner = c["num_attention_heads"] * d
    qkv = inner + 2 * c["multi_query_group_num"] * d
    vocabulary = c["padded_vocab_size"]
    top = "transformer.encoder"
    shapes: Shapes = {"transformer.embedding.word_embeddings.weight": (vocabulary, h)}
    norms = [f"{top}.final_layernorm"]
    for i in range(c["num_layers"]):
        name = f"{top}.layers.{i}"
        norms += [f"{name}.input_layernorm", f"{name}.post_attention_layernorm"]
        shapes |= {
            f"{name}.self_attention.query_key_value.weight": (qkv, h),
            f"{name}.self_attention.dense.weight": (h, inner),
            f"{name}.mlp.dense_h_to_4h.weight": (2 * ffn, h),
            f"{name}.mlp.dense_4h_to_h.weight": (h, ffn),
        }
        if c["add_qkv_bias"] or c["add_bias_linear"]:
            shapes[f"{name}.self_attention.query_key_value.bias"] = (qkv,)
        if c["add_bias_linear"]:
            shapes[f"{name}.self_attention.dense.bias"] = (h,)
            shapes[f"{name}.mlp.dense_h_to_4h.bias"] = (2 * ffn,)
            shapes[f"{name}.mlp.dense_4h_to_h.bias"] = (h,)
    for norm in norms:
        shapes |= {f"{norm}.weight": (h,)} | ({} if c["rmsnorm"] else {f"{norm}.bias": (h,)})
    return shapes | {"transformer.output_layer.weight": (vocabulary, h)}


def chatglm_logits(c: Config, w: Weights, tokens: Tensor) -> Tensor:
    """modeling_chatglm.py of THUDM/chatglm3-6b and glm-4-9b."""
    heads, groups, d = c["num_attention_heads"], c["multi_query_group_num"], c["kv_channels"]
    base = 10000 * c.get("rope_ratio", 1)

    def norm(x: Tensor, name: str) -> Tensor:
        weight, eps = w[f"{name}.weight"], c["layernorm_epsilon"]
        return rms(x, weight, eps) if c["rmsnorm"] else layer_norm(x, weight, w[f"{name}.bias"], eps)

    x = w["transformer.embedding.word_embeddings.weight"][tokens]
    for i in range(c["num_layers"]):
        name = f"transformer.encoder.layers.{i}"
        qkv = linear(w, f"{name}.self_attention.query_key_value", norm(x, f"{name}.input_layernorm"))
        q, k, v = qkv.view(len(tokens), -1, d).split([heads, groups, groups], dim=1)
        q, k = rotate_neighbours(q, base, d // 2), rotate_neighbours(k, base, d // 2)
        x = x + linear(w, f"{name}.self_attention.dense", attend(q, k, v))
        y = linear(w, f"{name}.mlp.dense_h_to_4h", norm(x, f"{name}.post_attention_layernorm"))
        first, second = y.chunk(2, dim=-1)
        x = x + linear(w, f"{name}.mlp.dense_4h_to_h", silu(first) * second)
    return linear(w, "transformer.output_layer", norm(x, "transformer.encoder.final_layernorm"))


def internlm2_shapes(c: Config) -> Shapes:
    h, ffn = c["hidden_size"], c["intermediate_size"]
    d = h // c["num_attention_heads"]
    qkv = (c["num_attention_heads"] + 2 * c["num_key_value_heads"]) * d
    shapes: Shapes = {"model.tok_embeddings.weight": (c["vocab_size"], h), "model.norm.weight": (h,)}
    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}"
        shapes |= {
            f"{name}.attention_norm.weight": (h,),
            f"{name}.attention.wqkv.weight": (qkv, h),
            f"{name}.attention.wo.weight": (h, h),
            f"{name}.ffn_norm.weight": (h,),
            f"{name}.feed_forward.w1.weight": (ffn, h),
            f"{name}.feed_forward.w3.weight": (ffn, h),
            f"{name}.feed_forward.w2.weight": (h, ffn),
        }
        if c["bias"]:
            shapes |= {f"{name}.attention.wqkv.bias": (qkv,), f"{name}.attention.wo.bias": (h,)}
    return shapes | {"output.weight": (c["vocab_size"], h)}


def internlm2_logits(c: Config, w: Weights, tokens: Tensor) -> Tensor:
    """modeling_internlm2.py of internlm/internlm2-chat-7b: wqkv is (KV head, its queries + k + v, d)."""
    kv_heads = c["num_key_value_heads"]
    group = c["num_attention_heads"] // kv_heads
    d = c["hidden_size"] // c["num_attention_heads"]
    x, eps, length = w["model.tok_embeddings.weight"][tokens], c["rms_norm_eps"], len(tokens)
    base = c["rope_theta"]
    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}"
        qkv = linear(w, f"{name}.attention.wqkv", rms(x, w[f"{name}.attention_norm.weight"], eps))
        qkv = qkv.view(length, kv_heads, group + 2, d)
        q, k, v = qkv[:, :, :group].reshape(length, -1, d), qkv[:, :, -2], qkv[:, :, -1]
        y = attend(rotate_halves(q, base), rotate_halves(k, base), v)
        x = x + linear(w, f"{name}.attention.wo", y)
        y = rms(x, w[f"{name}.ffn_norm.weight"], eps)
        y = silu(linear(w, f"{name}.feed_forward.w1", y)) * linear(w, f"{name}.feed_forward.w3", y)
        x = x + linear(w, f"{name}.feed_forward.w2", y)
    return linear(w, "output", rms(x, w["model.norm.weight"], eps))


def minicpm_shapes(c: Config) -> Shapes:
    h, ffn = c["hidden_size"], c["intermediate_size"]
    kv = h // c["num_attention_heads"] * c["num_key_value_heads"]
    shapes: Shapes = {"model.embed_tokens.weight": (c["vocab_size"], h), "model.norm.weight": (h,)}
    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}"
        shapes |= {
            f"{name}.input_layernorm.weight": (h,),
            f"{name}.self_attn.q_proj.weight": (h, h),
            f"{name}.self_attn.k_proj.weight": (kv, h),
            f"{name}.self_attn.v_proj.weight": (kv, h),
            f"{name}.self_attn.o_proj.weight": (h, h),
            f"{name}.post_attention_layernorm.weight": (h,),
            f"{name}.mlp.gate_proj.weight": (ffn, h),
            f"{name}.mlp.up_proj.weight": (ffn, h),
            f"{name}.mlp.down_proj.weight": (h, ffn),
        }
    return shapes


def minicpm_logits(c: Config, w: Weights, tokens: Tensor) -> Tensor:
    """modeling_minicpm.py of openbmb/MiniCPM-2B: muP's three scales, tied embeddings."""
    d = c["hidden_size"] // c["num_attention_heads"]
    x, eps = w["model.embed_tokens.weight"][tokens] * c["scale_emb"], c["rms_norm_eps"]
    depth = c["scale_depth"] / c["num_hidden_layers"] ** 0.5
    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}"
        y = rms(x, w[f"{name}.input_layernorm.weight"], eps)
        q, k, v = (linear(w, f"{name}.self_attn.{p}_proj", y).view(len(tokens), -1, d) for p in "qkv")
        y = attend(rotate_halves(q, c["rope_theta"]), rotate_halves(k, c["rope_theta"]), v)
        x = x + linear(w, f"{name}.self_attn.o_proj", y) * depth
        y = rms(x, w[f"{name}.post_attention_layernorm.weight"], eps)
        y = silu(linear(w, f"{name}.mlp.gate_proj", y)) * linear(w, f"{name}.mlp.up_proj", y)
        x = x + linear(w, f"{name}.mlp.down_proj", y) * depth
    x = rms(x, w["model.norm.weight"], eps) / (c["hidden_size"] / c["dim_model_base"])
    return x @ w["model.embed_tokens.weight"].T


PLAIN: Mapping[str, Plain] = {
    "chatglm": Plain(chatglm_shapes, chatglm_logits),
    "deepseek": Plain(deepseek_shapes, deepseek_logits),
    "grok-1": Plain(grok_shapes, grok_logits),
    "internlm2": Plain(internlm2_shapes, internlm2_logits),
    "minicpm": Plain(minicpm_shapes, minicpm_logits),
    "qwen": Plain(qwen_shapes, qwen_logits),
}
