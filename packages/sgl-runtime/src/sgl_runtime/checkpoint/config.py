# SPDX-License-Identifier: Apache-2.0
"""`ModelConfig`: a model's shape, read from config.json and generation_config.json, or from a GGUF file.

The one place that knows how publishers spell things: old and new names of the same field, fields left out
because they follow from others. A field that is missing or absurd stops the start with the file's and the
field's name. Which architectures exist is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from sgl_runtime.checkpoint.gguf import GGUFFile
from sgl_runtime.checkpoint.gguf_config import GGUF_NAMES, config_from_gguf
from sgl_runtime.errors import ConfigError

_DTYPES = ("float32", "bfloat16", "float16")
_NORM_EPS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
_CONTEXT_LENGTH = (
    "max_sequence_length",
    "seq_length",
    "max_position_embeddings",
    "max_seq_len",
    "model_max_length",
)


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
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None  # as published, its kind under `rope_type`; None: plain RoPE
    tie_embeddings: bool
    hidden_act: str
    attention_bias: bool
    mlp_bias: bool
    dtype: str  # "float32" | "bfloat16" | "float16", as stored
    bos: int | None
    eos: tuple[int, ...]  # any of these ends the text
    raw: Mapping[str, Any]  # the whole config.json, for what only one architecture has


def read_config(path: Path) -> ModelConfig:
    """The configuration of the model in a folder or a GGUF file.

    Raises ConfigError naming the file, and the field if one is missing or wrong.
    """
    if path.suffix == ".gguf":
        return _model_config(_Fields(path, config_from_gguf(GGUFFile(path)), GGUF_NAMES), None)
    file = path / "config.json"
    if not file.is_file():
        raise ConfigError(f"{path} holds no config.json: it is not a model in the Hugging Face layout")
    generation = path / "generation_config.json"
    return _model_config(
        _Fields(file, read_json(file)),
        _Fields(generation, read_json(generation)) if generation.is_file() else None,
    )


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises ConfigError naming the file if there is none."""
    try:
        value = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} must hold a JSON object, not a {type(value).__name__}")
    return value


class _Fields:
    """The fields of one file. A missing field is one that is absent or null; every refusal names file and
    field."""

    def __init__(
        self, file: Path, values: Mapping[str, Any], written: Mapping[str, str] | None = None
    ) -> None:
        self.file = file
        self.values = values
        self._written = written or {}  # names that the file itself spells otherwise

    def fail(self, name: str, problem: str) -> NoReturn:
        raise ConfigError(f"{self.file}: {self._written.get(name, name)} {problem}", param=name)

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None) -> int:
        """A positive integer; without a default the field is required."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            self.fail(name, f"must be a positive integer, not {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number; without a default the field is required."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            self.fail(name, f"must be a positive number, not {value!r}")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        if not isinstance(value, bool):
            self.fail(name, f"must be true or false, not {value!r}")
        return value

    def string(self, name: str, default: str | None = None) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            self.fail(name, f"must be a string, not {value!r}")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """Token ids given as one integer, a list of them, or not at all."""
        value = self.values.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in ids):
            self.fail(name, f"must be a token id or a list of token ids, not {value!r}")
        return tuple(ids)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None and default is None:
            self.fail(name, "is missing")
        return default if value is None else value


def _model_config(config: _Fields, generation: _Fields | None) -> ModelConfig:
    hidden_size = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        config.fail(
            "num_key_value_heads", f"is {kv_heads}, which does not divide num_attention_heads, {heads}"
        )
    if not config.has("head_dim") and hidden_size % heads:
        config.fail(
            "head_dim",
            f"is missing, and hidden_size, {hidden_size}, is no multiple of num_attention_heads, {heads}",
        )
    rope_theta, rope_scaling = _rope(config)
    vocab_size = config.integer("vocab_size")
    bos = config.token_ids("bos_token_id")
    eos_from = generation if generation is not None and generation.has("eos_token_id") else config
    eos = eos_from.token_ids("eos_token_id")
    if outside := [token for token in eos if token >= vocab_size]:
        eos_from.fail("eos_token_id", f"is {outside[0]}, beyond vocab_size, {vocab_size}")
    norm_eps = next((name for name in _NORM_EPS if config.has(name)), _NORM_EPS[0])
    return ModelConfig(
        architecture=_architecture(config),
        model_type=config.string("model_type"),
        hidden_size=hidden_size,
        layers=config.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=config.integer("head_dim", hidden_size // heads),
        intermediate_size=config.integer("intermediate_size"),
        vocab_size=vocab_size,
        context_length=_context_length(config, rope_scaling),
        norm_eps=config.number(norm_eps),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        tie_embeddings=config.boolean("tie_word_embeddings", False),
        hidden_act=config.string("hidden_act", "silu"),
        attention_bias=config.boolean("attention_bias", False),
        mlp_bias=config.boolean("mlp_bias", False),
        dtype=_dtype(config),
        bos=bos[0] if bos else None,
        eos=eos,
        raw=config.values,
    )


def _architecture(config: _Fields) -> str:
    names = config.values.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        config.fail("architectures", f"must be a list that begins with a class name, not {names!r}")
    return names[0]


def _dtype(config: _Fields) -> str:
    name = "dtype" if config.has("dtype") else "torch_dtype"
    dtype = config.string(name, "float32").removeprefix("torch.")
    if dtype not in _DTYPES:
        config.fail(name, f"must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    return dtype


def _rope(config: _Fields) -> tuple[float, Mapping[str, Any] | None]:
    """rope_theta, and the scaling under `rope_type`: transformers 5 keeps both in `rope_parameters`."""
    name = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    given = config.values.get(name)
    if given is None:
        return config.number("rope_theta", 10000.0), None
    if not isinstance(given, Mapping):
        config.fail(name, f"must be an object, not {given!r}")
    if any(isinstance(value, Mapping) for value in given.values()):
        config.fail(name, "has a RoPE per layer type, which cannot be served")
    parameters = _Fields(config.file, given)
    theta = parameters.number("rope_theta", config.number("rope_theta", 10000.0))
    scaling = {key: value for key, value in given.items() if key not in ("rope_theta", "type", "rope_type")}
    kind = given.get("rope_type") or given.get("type") or ("default" if not scaling else None)
    if not isinstance(kind, str):
        config.fail(name, f"needs rope_type, the kind of scaling; it is {dict(given)!r}")
    return theta, None if kind == "default" else {"rope_type": kind, **scaling}


def _context_length(config: _Fields, scaling: Mapping[str, Any] | None) -> int:
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
    factor = _Fields(config.file, scaling).number("factor", 1.0)
    return length if name == "max_sequence_length" else int(length * factor)
