# SPDX-License-Identifier: Apache-2.0
"""A `tokenizers` tokenizer from the metadata of a GGUF file.

Two kinds exist in files of the llama architecture: `gpt2`, byte-level BPE with merges, and `llama`,
SentencePiece with a score per token, which becomes BPE whose merges are ordered by the score of what they
make. The metadata is llama.cpp's; where it leaves something open, llama.cpp's behaviour is the definition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from sgl_runtime.errors import ConfigError
from sgl_runtime.text.pretokenizers import WORD_SPLITS

_TOKENS = "tokenizer.ggml.tokens"
_NAMED = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "sep_token": "tokenizer.ggml.seperator_token_id",  # spelled so in the format
}


class _Kind(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # special: has no text
    USER_DEFINED = 4  # found in the text before anything else, but has text
    UNUSED = 5
    BYTE = 6


def backend_from_gguf(path: Path, metadata: Mapping[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer, and its named special tokens ("bos_token" -> "<s>").

    Raises ConfigError naming the file and the key for a tokenizer that is missing, damaged, or of an unknown
    kind.
    """
    tokens = _list(path, metadata, _TOKENS, str)
    kinds = [_Kind.NORMAL] * len(tokens)
    if "tokenizer.ggml.token_type" in metadata:
        kinds = _list(path, metadata, "tokenizer.ggml.token_type", int)
    if len(kinds) != len(tokens):
        raise ConfigError(
            f"{path}: tokenizer.ggml.token_type has {len(kinds)} entries for {len(tokens)} tokens"
        )
    ids = {token: place for place, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ConfigError(f"{path}: {_TOKENS} names a token twice")
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        backend, bos = _byte_level(path, metadata, ids)
    elif model == "llama":
        backend, bos = _sentencepiece(path, metadata, ids, kinds), True
    else:
        raise ConfigError(f"{path}: tokenizer.ggml.model is {model!r}; 'gpt2' and 'llama' can be served")
    for kind, special in ((_Kind.CONTROL, True), (_Kind.USER_DEFINED, False)):
        texts = [token for token, its in zip(tokens, kinds, strict=True) if its == kind and token]
        backend.add_tokens([AddedToken(text, normalized=False, special=special) for text in texts])
    named = {
        name: tokens[place]
        for name, key in _NAMED.items()
        if isinstance(place := metadata.get(key), int) and 0 <= place < len(tokens)
    }
    _add_around(
        backend,
        named.get("bos_token") if metadata.get("tokenizer.ggml.add_bos_token", bos) else None,
        named.get("eos_token") if metadata.get("tokenizer.ggml.add_eos_token", False) else None,
    )
    return backend, named


def _add_around(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Let encoding put `bos` before a text and `eos` after it."""
    ends = [(text, backend.token_to_id(text)) for text in (bos, eos) if text is not None]
    single = [*([bos] if bos is not None else []), "$A", *([eos] if eos is not None else [])]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=[*single, "$B:1"], special_tokens=ends
    )


def _byte_level(
    path: Path, metadata: Mapping[str, Any], ids: dict[str, int]
) -> tuple[tokenizers.Tokenizer, bool]:
    name = metadata.get("tokenizer.ggml.pre", "default")
    split = WORD_SPLITS.get(name)
    if split is None:
        raise ConfigError(
            f"{path}: tokenizer.ggml.pre is {name!r}, an unknown way to cut text into words; "
            f"give --tokenizer-path a folder with the model's tokenizer.json"
        )
    merges = [_pair(path, merge) for merge in _list(path, metadata, "tokenizer.ggml.merges", str)]
    backend = _bpe(path, ids, merges, ignore_merges=split.whole_words)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in split.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend, split.bos


def _sentencepiece(
    path: Path, metadata: Mapping[str, Any], ids: dict[str, int], kinds: Sequence[int]
) -> tokenizers.Tokenizer:
    scores = _list(path, metadata, "tokenizer.ggml.scores", float)
    if len(scores) != len(ids):
        raise ConfigError(f"{path}: tokenizer.ggml.scores has {len(scores)} entries for {len(ids)} tokens")
    unknown = next((token for token, kind in zip(ids, kinds, strict=True) if kind == _Kind.UNKNOWN), None)
    pieces = {token: place for token, place in ids.items() if kinds[place] == _Kind.NORMAL}
    merges = list(_merges(pieces, scores))
    backend = _bpe(path, ids, merges, byte_fallback=True, fuse_unk=True, unk_token=unknown)
    to_meta: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    to_text: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        to_meta.insert(0, normalizers.Prepend("▁"))
        to_text.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(to_meta)
    backend.decoder = decoders.Sequence(to_text)
    return backend


def _merges(pieces: Mapping[str, int], scores: Sequence[float]) -> Iterator[tuple[str, str]]:
    """SentencePiece joins the two neighbours whose union scores highest: that order, as a list of merges."""
    for piece in sorted(pieces, key=lambda piece: -scores[pieces[piece]]):
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in halves if left in pieces and right in pieces]
        yield from sorted(known, key=lambda pair: (pieces[pair[0]], pieces[pair[1]]))


def _bpe(
    path: Path, ids: dict[str, int], merges: list[tuple[str, str]], **options: Any
) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, **options))
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise ConfigError(f"{path}: the tokenizer's vocabulary and merges disagree: {error}") from error


def _pair(path: Path, merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right:
        raise ConfigError(f"{path}: tokenizer.ggml.merges has an entry that is not two tokens: {merge!r}")
    return left, right


def _list(path: Path, metadata: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """A required array; a GGUF array has one type throughout."""
    value = metadata.get(key)
    if value is None:
        raise ConfigError(f"{path}: {key} is missing, so the file holds no tokenizer; give --tokenizer-path")
    if not isinstance(value, list) or not value or not isinstance(value[0], kind):
        raise ConfigError(f"{path}: {key} must be an array of {kind.__name__}, not empty")
    return value
