# SPDX-License-Identifier: Apache-2.0
"""GGUF tensors against transformers' own loading of the same files, and quantisations against what was
quantised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from sgl_runtime.checkpoint.gguf import GGUFFile
from sgl_runtime.checkpoint.gguf_names import ARCHITECTURES
from sgl_runtime.errors import ConfigError

Q = GGMLQuantizationType
WriteGGUF = Callable[..., Path]

# Where a block keeps its float16 scales, for the types that can only be read here, not written.
HALVES: dict[GGMLQuantizationType, tuple[int, ...]] = {
    Q.Q2_K: (80, 82),
    Q.Q3_K: (108,),
    Q.Q4_K: (0, 2),
    Q.Q5_K: (0, 2),
    Q.Q6_K: (208,),
    Q.IQ2_XXS: (0,),
    Q.IQ2_XS: (0,),
    Q.IQ2_S: (0,),
    Q.IQ3_XXS: (0,),
    Q.IQ3_S: (0,),
    Q.IQ1_S: (0,),
    Q.IQ4_NL: (0,),
    Q.IQ4_XS: (0,),
}


def blocks(kind: GGMLQuantizationType, rows: int, columns: int, seed: int) -> tuple[NDArray[np.uint8], Any]:
    """A valid tensor of this type: random bits with sane scales."""
    random = np.random.default_rng(seed)
    elements, size = GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (rows, columns // elements, size), np.uint8)
    for at in HALVES[kind]:
        scale = random.uniform(0.01, 0.1, data.shape[:2]).astype(np.float16)
        data[:, :, at : at + 2] = scale[..., None].view(np.uint8)
    return data.reshape(rows, -1), kind


def quantised(kind: GGMLQuantizationType, rows: int, columns: int, seed: int) -> tuple[NDArray[Any], Any]:
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    return quants.quantize(values, kind), kind


HIDDEN, HEADS, KV_HEADS, VOCAB, FFN = 256, 4, 2, 8, 512
SHAPE = {
    "block_count": 2,
    "context_length": 64,
    "embedding_length": HIDDEN,
    "feed_forward_length": FFN,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 10000.0,
    "rope.dimension_count": HIDDEN // HEADS,
    "vocab_size": VOCAB,
    "tokenizer.ggml.tokens": [str(n) for n in range(VOCAB)],
    "tokenizer.ggml.model": "gpt2",
}
SHAPE = {key if key.startswith("tokenizer") else f"llama.{key}": value for key, value in SHAPE.items()}


def small_llama(**changes: Any) -> dict[str, Any]:
    """Two layers in which every projection is stored in another way."""
    kv = HIDDEN // HEADS * KV_HEADS
    norm = np.random.default_rng(0).standard_normal(HIDDEN).astype(np.float32)
    tensors: dict[str, Any] = {
        "token_embd.weight": quantised(Q.F16, VOCAB, HIDDEN, 1),
        "output_norm.weight": norm,
        "output.weight": quantised(Q.BF16, VOCAB, HIDDEN, 2),
        "blk.0.attn_q.weight": quantised(Q.Q4_0, HIDDEN, HIDDEN, 3),
        "blk.0.attn_k.weight": quantised(Q.Q8_0, kv, HIDDEN, 4),
        "blk.0.attn_v.weight": blocks(Q.Q6_K, kv, HIDDEN, 5),
        "blk.0.attn_output.weight": blocks(Q.Q4_K, HIDDEN, HIDDEN, 6),
        "blk.0.ffn_gate.weight": blocks(Q.Q5_K, FFN, HIDDEN, 7),
        "blk.0.ffn_up.weight": blocks(Q.Q2_K, FFN, HIDDEN, 8),
        "blk.0.ffn_down.weight": blocks(Q.Q3_K, HIDDEN, FFN, 9),
        "blk.1.attn_q.weight": blocks(Q.IQ4_NL, HIDDEN, HIDDEN, 10),
        "blk.1.attn_k.weight": quantised(Q.Q4_1, kv, HIDDEN, 11),
        "blk.1.attn_v.weight": blocks(Q.IQ4_XS, kv, HIDDEN, 12),
        "blk.1.attn_output.weight": blocks(Q.IQ3_S, HIDDEN, HIDDEN, 13),
        "blk.1.ffn_gate.weight": blocks(Q.IQ2_XXS, FFN, HIDDEN, 14),
        "blk.1.ffn_up.weight": blocks(Q.IQ3_XXS, FFN, HIDDEN, 15),
        "blk.1.ffn_down.weight": blocks(Q.IQ2_S, HIDDEN, FFN, 16),
    }
    for layer in range(2):
        tensors |= {f"blk.{layer}.{part}_norm.weight": norm * (layer + 2) for part in ("attn", "ffn")}
    return tensors | changes


def load_reference(path: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return dict(model.state_dict())


def test_every_tensor_of_a_small_model_is_what_transformers_loads(write_gguf: WriteGGUF) -> None:
    path = write_gguf(small_llama(), SHAPE)
    ours = {name: read() for name, read in GGUFFile(path).tensors()}
    theirs = load_reference(path)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        assert values.dtype == np.float32 and values.flags.writeable and values.flags.c_contiguous
        # Some block types are multiplied out in another order there: equal but for the last bit.
        np.testing.assert_allclose(values, theirs[name].numpy(), rtol=1e-6, atol=1e-7, err_msg=name)
    # Rows are in the right order, exactly: Q8_0 has one product.
    name = "model.layers.0.self_attn.k_proj.weight"
    np.testing.assert_array_equal(ours[name], theirs[name].numpy())


def test_the_demonstration_model_is_what_transformers_loads(demonstration: Path) -> None:
    theirs = load_reference(demonstration)
    ours = dict(GGUFFile(demonstration).tensors())
    # Tied: the file has no output matrix.
    assert ours.keys() == theirs.keys() - {"lm_head.weight"}
    layers = [f"model.layers.{layer}.{part}" for layer in (0, 29) for part in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj",
        "input_layernorm", "post_attention_layernorm",
    )]  # fmt: skip
    for name in [
        "model.embed_tokens",
        "model.norm",
        *layers,
        "model.layers.7.mlp.gate_proj",
        "model.layers.7.mlp.up_proj",
    ]:
        np.testing.assert_array_equal(
            ours[f"{name}.weight"](), theirs[f"{name}.weight"].numpy(), err_msg=name
        )


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Q.F32, 0),
        (Q.F16, 2e-3),
        (Q.BF16, 2e-2),
        (Q.Q4_0, 0.5),
        (Q.Q4_1, 0.3),
        (Q.Q5_0, 0.3),
        (Q.Q5_1, 0.2),
        (Q.Q8_0, 0.03),
    ],
)
def test_a_quantised_tensor_comes_back_close_to_what_it_was(
    kind: GGMLQuantizationType, error: float, write_gguf: WriteGGUF
) -> None:
    values = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    path = write_gguf({"token_embd.weight": (quants.quantize(values, kind), kind)})
    ((name, read),) = GGUFFile(path).tensors()
    assert name == "model.embed_tokens.weight"
    assert read().shape == values.shape
    np.testing.assert_allclose(read(), values, atol=error)
    assert np.corrcoef(read().ravel(), values.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("kind", HALVES)
def test_block_types_that_gguf_can_read_are_read(kind: GGMLQuantizationType, write_gguf: WriteGGUF) -> None:
    data, _ = blocks(kind, 3, 512, 0)
    ((_, read),) = GGUFFile(write_gguf({"token_embd.weight": (data, kind)})).tensors()
    np.testing.assert_array_equal(read(), quants.dequantize(data, kind))


def test_a_type_that_cannot_be_dequantised_is_refused_before_anything_is_read(write_gguf: WriteGGUF) -> None:
    tensors = {"token_embd.weight": np.ones((2, 32), np.float32), "output_norm.weight": np.ones(32, np.int32)}
    file = GGUFFile(write_gguf(tensors))
    with pytest.raises(
        ConfigError, match=r"model\.gguf: tensor output_norm\.weight is stored as I32"
    ) as raised:
        next(file.tensors())
    assert "convert the model" in raised.value.message


def test_query_rows_return_to_the_two_halves_of_each_head(write_gguf: WriteGGUF) -> None:
    # One head of six rows: ggml keeps 0 3 1 4 2 5 of Hugging Face's 0 1 2 3 4 5.
    stored = np.array([0, 3, 1, 4, 2, 5], np.float32)[:, None] * np.ones((1, 4), np.float32)
    shape = {"attention.head_count": 1}
    shape = {f"llama.{key}": value for key, value in shape.items()}
    names = ("attn_q.weight", "attn_k.weight", "attn_v.weight")
    tensors = {f"blk.0.{name}": stored for name in names} | {"blk.0.attn_q.bias": stored[:, 0]}
    read = {name: values() for name, values in GGUFFile(write_gguf(tensors, shape)).tensors()}
    sorted_rows = np.sort(stored, axis=0)
    np.testing.assert_array_equal(read["model.layers.0.self_attn.q_proj.weight"], sorted_rows)
    np.testing.assert_array_equal(read["model.layers.0.self_attn.k_proj.weight"], sorted_rows)
    np.testing.assert_array_equal(read["model.layers.0.self_attn.v_proj.weight"], stored)
    np.testing.assert_array_equal(read["model.layers.0.self_attn.q_proj.bias"], sorted_rows[:, 0])


@pytest.mark.parametrize("heads", [None, 0, 4, "two"])
def test_heads_that_do_not_fit_are_named(heads: Any, write_gguf: WriteGGUF) -> None:
    metadata = {} if heads is None else {"llama.attention.head_count": heads}
    path = write_gguf({"blk.0.attn_q.weight": np.ones((6, 4), np.float32)}, metadata)
    ((_, read),) = GGUFFile(path).tensors()
    with pytest.raises(
        ConfigError, match=r"tensor blk\.0\.attn_q\.weight has 6 rows.*llama\.attention\.head_count"
    ):
        read()


def test_names() -> None:
    hugging_face_name = ARCHITECTURES["llama"].hugging_face_name
    assert hugging_face_name("blk.12.ffn_down.weight") == "model.layers.12.mlp.down_proj.weight"
    assert hugging_face_name("output.weight") == "lm_head.weight"
    for unknown in (
        "blk.0.attn_rot_embd.weight",
        "blk.0.ffn_gate_inp.weight",
        "v.blk.0.attn_q.weight",
        "output",
    ):
        assert hugging_face_name(unknown) == unknown


def test_the_stored_type(write_gguf: WriteGGUF) -> None:
    norm = {"output_norm.weight": np.ones(32, np.float32)}
    for kind, name in ((Q.F16, "float16"), (Q.BF16, "bfloat16"), (Q.F32, "float32"), (Q.Q8_0, "float32")):
        path = write_gguf({"token_embd.weight": quantised(kind, 2, 32, 0), **norm}, name=name)
        assert GGUFFile(path).dtype == name


def test_another_architecture_is_refused(write_gguf: WriteGGUF) -> None:
    with pytest.raises(ConfigError, match=r"general\.architecture is 'mamba'.*Hugging Face folder"):
        GGUFFile(write_gguf(architecture="mamba"))
