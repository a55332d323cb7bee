# SPDX-License-Identifier: Apache-2.0
"""Write a tiny random checkpoint in the published Hugging Face layout, for tests and for trying a server out.

    python tools/tiny_checkpoint.py FOLDER [--untied] [--rope-scaling llama3] [--weights bin] [--shards 3]

transformers draws up the model and its config.json, so that what reads the folder is compared with
something we did not write. The tokenizer is byte-level with a handful of merges and a chat template. Knows
no part of a server but the sizes of its tiny models.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from sgl_runtime.models.llama import TINY
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

Weights = Literal["safetensors", "bin"]

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "in"))
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_EMBEDDINGS = ("embed", "wte", "wpe")
ROPE_SCALING: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "linear": {"rope_type": "linear", "factor": 4.0},
        "dynamic": {"rope_type": "dynamic", "factor": 4.0},
        "llama3": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    }
)


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any] = MappingProxyType(TINY),
    *,
    weights: Weights = "safetensors",
    shards: int = 1,
    seed: int = 0,
) -> Path:
    """Write config, weights and tokenizer of a random float32 model into `folder`, made if need be; returns
    it.

    config: a config.json; keys that transformers does not find keep its defaults. shards: weight files,
    with an index if there are several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        AutoConfig.for_model(**config), dtype=torch.float32
    )
    model.config.architectures = list(config["architectures"])
    _randomise(model, seed)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tied = set(model.all_tied_weights_keys)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    # Experts, which transformers stacks, one by one as they are published.
    published = revert_weight_conversion(model, state)
    state = {name: tensor.contiguous() for name, tensor in published.items()}
    _save(folder, state, weights, shards)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer of 264 tokens: `SPECIAL`, the 256 bytes, five merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spellings = [*SPECIAL, *alphabet, *("".join(merge) for merge in _MERGES)]
    vocabulary = {spelling: token for token, spelling in enumerate(spellings)}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(_MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[2],
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def _randomise(model: torch.nn.Module, seed: int) -> None:
    """Norms and biases that are not neutral, and blocks that outweigh the embedding, which alone would
    repeat itself."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        stored = model.state_dict()
        buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in stored)
        for name, parameter in itertools.chain(model.named_parameters(), buffers):
            noise = torch.randn(parameter.shape, generator=generator)
            strength = 1.0 if any(word in name for word in _EMBEDDINGS) else 2.0
            scale = strength * parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.2
            factor = "norm" in name or parameter.dim() == 1
            parameter.copy_(noise * scale + (1.0 if factor and not name.endswith("bias") else 0.0))


def _save(folder: Path, state: Mapping[str, torch.Tensor], weights: Weights, shards: int) -> None:
    stem, suffix = ("model", "safetensors") if weights == "safetensors" else ("pytorch_model", "bin")
    names = list(state)
    files: dict[str, str] = {}
    for shard in range(shards):
        part = f"{stem}.{suffix}" if shards == 1 else f"{stem}-{shard + 1:05}-of-{shards:05}.{suffix}"
        tensors = {name: state[name] for name in names[shard::shards]}
        if weights == "safetensors":
            save_file(tensors, folder / part, metadata={"format": "pt"})
        else:
            torch.save(tensors, folder / part)
        files |= dict.fromkeys(tensors, part)
    if shards > 1:
        index = {"metadata": {}, "weight_map": files}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--untied", action="store_true", help="an output matrix of its own")
    parser.add_argument("--bias", action="store_true", help="biases on attention and MLP")
    parser.add_argument("--rope-scaling", choices=sorted(ROPE_SCALING))
    parser.add_argument("--weights", choices=("safetensors", "bin"), default="safetensors")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    config = dict(TINY, tie_word_embeddings=not arguments.untied)
    config |= {"attention_bias": arguments.bias, "mlp_bias": arguments.bias}
    if arguments.rope_scaling:
        config["rope_scaling"] = dict(ROPE_SCALING[arguments.rope_scaling])
    write_checkpoint(
        arguments.folder, config, weights=arguments.weights, shards=arguments.shards, seed=arguments.seed
    )


if __name__ == "__main__":
    main()
