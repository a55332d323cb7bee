# SPDX-License-Identifier: Apache-2.0
"""`ModelConfig`: a model's shape, read from config.json and generation_config.json, or from a GGUF file.

The one place that knows how publishers spell things: old and new names of the same field, fields left out
because they follow from others. A field that is missing or absurd stops the start with the file's and the
field's name. Which architectures exist is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from sgl_runtime.checkpoint.fields import Fields, read_json
from sgl_runtime.checkpoint.gguf import GGUFFile
from sgl_runtime.checkpoint.gguf_config import config_from_gguf, gguf_names
from sgl_runtime.checkpoint.rope import Rope, read_rope
from sgl_runtime.errors import ConfigError

_DTYPES = ("float32", "bfloat16", "float16")
# One field under the names that publishers give it.
_HIDDEN_SIZE = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "multi_query_group_num", "kv_n_heads")
_HEAD_DIM = ("head_dim", "kv_channels")
_INTERMEDIATE_SIZE = ("intermediate_size", "ffn_hidden_size", "n_inner")
_VOCAB_SIZE = ("vocab_size", "padded_vocab_size")
_NORM_EPS = (
    "rms_norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_epsilon",
    "layernorm_epsilon",
    "norm_eps",
)
_ACTIVATION = ("hidden_activation", "hidden_act", "activation_function")
_CONTEXT_LENGTH = (
    "max_sequence_length",
    "seq_length",
    "max_position_embeddings",
    "max_seq_len",
    "model_max_length",
    "n_positions",
)
_SECTIONS = ("attn_config", "ffn_config")  # objects in which DBRX puts some of the fields
_LAYER_TYPES = ("full_attention", "sliding_attention")


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of one decoder-only model; counts are of the whole model, before any splitting over ranks."""

    architecture: str  # "LlamaForCausalLM"
    model_type: str  # "llama"
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int  # rows of the embedding; may exceed the tokenizer's ids
    context_length: int  # tokens of prompt and output together, RoPE scaling included
    norm_eps: float
    rope: Rope  # of layers that see everything
    local_rope: Rope  # of layers with a sliding window; mostly the same
    sliding_window: int | None  # tokens that a layer with a window sees; None: no layer has one
    layer_types: tuple[str, ...] | None  # "full_attention" | "sliding_attention" each, if the config says
    tie_embeddings: bool
    hidden_act: str
    attention_bias: bool
    mlp_bias: bool
    dtype: str  # "float32" | "bfloat16" | "float16", as stored
    bos: int | None
    eos: tuple[int, ...]  # any of these ends the text
    raw: Mapping[str, Any]  # the whole config.json

    @property
    def own(self) -> Fields:
        """The whole config.json again, for the fields that only one architecture has."""
        return Fields(Path("config.json"), self.raw)

    def window(self, layer: int, *, full_every: int | None = None) -> int | None:
        """Tokens that a query of this layer sees at most, itself included; None: all. As `slides`."""
        width = self.sliding_window
        if width is None or width >= self.context_length or not self.slides(layer, full_every=full_every):
            return None
        return width

    def slides(self, layer: int, *, full_every: int | None = None) -> bool:
        """Is this layer one of those with the sliding window?

        Where the config does not tell layers apart, every `full_every`-th has none, as it is in the family;
        without that number all have it, or the upper ones.
        """
        if self.layer_types is not None:
            return self.layer_types[layer] == "sliding_attention"
        if full_every is not None:
            return (layer + 1) % self.own.integer("sliding_window_pattern", full_every) != 0
        return self.sliding_window is not None and layer >= self.raw.get("max_window_layers", 0)


def read_config(path: Path) -> ModelConfig:
    """The configuration of the model in a folder or a GGUF file.

    Raises ConfigError naming the file, and the field if one is missing or wrong.
    """
    if path.suffix == ".gguf":
        gguf = GGUFFile(path)
        return _model_config(Fields(path, config_from_gguf(gguf), gguf_names(gguf)), None)
    file = path / "config.json"
    if not file.is_file():
        raise ConfigError(f"{path} holds no config.json: it is not a model in the Hugging Face layout")
    generation = path / "generation_config.json"
    return _model_config(
        Fields(file, _flat(read_json(file))),
        Fields(generation, read_json(generation)) if generation.is_file() else None,
    )


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """With the fields of its sections beside its own, which count first."""
    sections = (values[name] for name in _SECTIONS if isinstance(values.get(name), dict))
    return {name: value for section in sections for name, value in section.items()} | values


def _model_config(config: Fields, generation: Fields | None) -> ModelConfig:
    hidden_size = config.integer(_HIDDEN_SIZE)
    heads = config.integer(_HEADS)
    kv_heads = _kv_heads(config, heads)
    if not config.has(config.spelled(_HEAD_DIM)) and hidden_size % heads:
        config.fail(
            "head_dim",
            f"is missing, and hidden_size, {hidden_size}, is no multiple of num_attention_heads, {heads}",
        )
    head_dim = config.integer(_HEAD_DIM, hidden_size // heads)
    layers = config.integer(_LAYERS)
    rope, local_rope = read_rope(config, head_dim)
    # A width left open is GPT-2's.
    open_width = 4 * hidden_size if "n_inner" in config.values else None
    # DBRX says nothing of its norms, which are torch's.
    open_eps = 1e-5 if config.has("ffn_config") else None
    vocab_size = config.integer(_VOCAB_SIZE)
    bos = config.token_ids("bos_token_id")
    eos_from = generation if generation is not None and generation.has("eos_token_id") else config
    eos = eos_from.token_ids("eos_token_id")
    if outside := [token for token in eos if token >= vocab_size]:
        eos_from.fail("eos_token_id", f"is {outside[0]}, beyond vocab_size, {vocab_size}")
    return ModelConfig(
        architecture=_architecture(config),
        model_type=config.string("model_type"),
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=config.integer(_INTERMEDIATE_SIZE, open_width),
        vocab_size=vocab_size,
        # A model with two kinds of RoPE publishes the length that the scaling of one of them reaches.
        context_length=_context_length(config, rope.scaling if rope == local_rope else None),
        norm_eps=config.number(_NORM_EPS, open_eps),
        rope=rope,
        local_rope=local_rope,
        sliding_window=_sliding_window(config),
        layer_types=_layer_types(config, layers),
        tie_embeddings=config.boolean("tie_word_embeddings", False),
        hidden_act=config.string(_ACTIVATION, "silu"),
        attention_bias=config.boolean("attention_bias", False),
        mlp_bias=config.boolean("mlp_bias", False),
        dtype=_dtype(config),
        bos=bos[0] if bos else None,
        eos=eos,
        raw=config.values,
    )


def _kv_heads(config: Fields, heads: int) -> int:
    """As many as query heads if nothing is said; `multi_query` alone means one, beside a number it decides
    whether that number counts."""
    if "multi_query" in config.values:
        return 1 if config.boolean("multi_query", True) else heads
    if "multi_query_attention" in config.values and not config.boolean("multi_query_attention", False):
        return heads
    kv_heads = config.integer(_KV_HEADS, heads)
    if heads % kv_heads:
        config.fail(
            config.spelled(_KV_HEADS),
            f"is {kv_heads}, which does not divide num_attention_heads, {heads}",
        )
    return kv_heads


def _sliding_window(config: Fields) -> int | None:
    if not config.has("sliding_window") or not config.boolean("use_sliding_window", True):
        return None
    return config.integer("sliding_window")


def _layer_types(config: Fields, layers: int) -> tuple[str, ...] | None:
    types = config.values.get("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != layers:
        config.fail("layer_types", f"must be a list of {layers}, one for each layer, not {types!r}")
    if unknown := [kind for kind in types if kind not in _LAYER_TYPES]:
        config.fail("layer_types", f"has {unknown[0]!r}; served are {' and '.join(_LAYER_TYPES)}")
    return tuple(types)


def _architecture(config: Fields) -> str:
    names = config.values.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        config.fail("architectures", f"must be a list that begins with a class name, not {names!r}")
    return names[0]


def _dtype(config: Fields) -> str:
    name = "dtype" if config.has("dtype") else "torch_dtype"
    dtype = config.string(name, "float32").removeprefix("torch.")
    if dtype not in _DTYPES:
        config.fail(name, f"must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    return dtype


def _context_length(config: Fields, scaling: Mapping[str, Any] | None) -> int:
    """The first of the fields in use, times the factor of a scaling that extends it.

    Llama 3.1 and whoever gives original_max_position_embeddings publish the extended length already, and so
    does max_sequence_length, which only checkpoints with linear scaling have beside max_position_embeddings.
    """
    for name in _CONTEXT_LENGTH:
        if config.has(name):
            length = config.integer(name)
            break
    else:
        config.fail("max_position_embeddings", f"is missing (also tried: {', '.join(_CONTEXT_LENGTH)})")
    if scaling is None or scaling["rope_type"] == "llama3" or "original_max_position_embeddings" in scaling:
        return length
    factor = Fields(config.file, scaling).number("factor", 1.0)
    return length if name == "max_sequence_length" else int(length * factor)
