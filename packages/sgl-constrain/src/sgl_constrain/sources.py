# SPDX-License-Identifier: Apache-2.0
"""The bytes of a tokenizer's tokens, out of the files and objects in which tokenizers come.

A token is written in one of two ways: *byte-level* (each byte stands as one printable character, by GPT-2's
table), or as text with `▁` for a space and `<0x0A>` for bytes that are no text by themselves. The decoder of
the tokenizer says which. A decoder that does anything else is refused by name: its tokens would not add up to
the text.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sgl_constrain.errors import InvalidVocabulary

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_HARMLESS = {"Fuse", "Strip"}  # they join tokens, or trim the two ends of a whole text


def byte_characters() -> dict[str, int]:
    """GPT-2's table: the printable character that stands for each byte."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def huggingface_tokens(source: object) -> tuple[list[bytes], list[int]]:
    """The tokens' bytes (b"" for special ones) and the ids that end a text, as far as they are known."""
    if isinstance(source, str | Path):
        path = Path(source)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise InvalidVocabulary(f"there is no file {file}")
        described = json.loads(file.read_text(encoding="utf-8"))
        return _tokens(described), _eos_of_folder(file.parent, described)
    backend = getattr(source, "backend_tokenizer", source)
    if not hasattr(backend, "to_str"):
        raise InvalidVocabulary(f"{type(source).__name__} is neither a path nor a tokenizer")
    eos = getattr(source, "eos_token_id", None)
    return _tokens(json.loads(backend.to_str())), [] if eos is None else [eos]


def _tokens(described: Mapping[str, Any]) -> list[bytes]:
    model = described["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores, in order
        pieces = {i: piece for i, (piece, _) in enumerate(vocabulary)}
    else:
        pieces = {i: piece for piece, i in vocabulary.items()}
    if model.get("end_of_word_suffix") or (model["type"] == "WordPiece"):
        raise InvalidVocabulary("tokens that mark the ends or continuations of words do not add up to a text")
    spell = _speller(list(_decoders(described.get("decoder"))), bool(model.get("byte_fallback")))
    added = {token["id"]: token for token in described.get("added_tokens", ())}
    tokens: list[bytes] = []
    for i in range(max((*pieces, *added), default=-1) + 1):
        if i in added:
            tokens.append(b"" if added[i]["special"] else added[i]["content"].encode())
        else:
            tokens.append(spell(pieces[i]) if i in pieces else b"")
    return tokens


def _decoders(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if decoder is None:
        raise InvalidVocabulary("the tokenizer has no decoder, so it does not say what its tokens spell")
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _decoders(part)
    else:
        yield decoder


def _speller(decoders: Sequence[Mapping[str, Any]], byte_fallback: bool) -> Callable[[str], bytes]:
    """The function from a piece to its bytes."""
    replaced: list[tuple[str, str]] = []
    byte_level = False
    for decoder in decoders:
        kind = decoder["type"]
        if kind == "ByteLevel":
            byte_level = True
        elif kind == "Metaspace":
            replaced.append((decoder.get("replacement", "▁"), " "))
        elif kind == "Replace" and "String" in decoder["pattern"]:
            replaced.append((decoder["pattern"]["String"], decoder["content"]))
        elif kind == "ByteFallback":
            byte_fallback = True
        elif kind not in _HARMLESS:
            raise InvalidVocabulary(
                f"the decoder {kind!r} is not supported: give the tokens' bytes to Vocabulary"
            )
    byte_of = byte_characters()

    def spell(piece: str) -> bytes:
        if byte_level and all(character in byte_of for character in piece):
            return bytes(byte_of[character] for character in piece)
        byte = _BYTE_PIECE.fullmatch(piece) if byte_fallback else None
        if byte:
            return bytes([int(byte[1], 16)])
        for old, new in replaced:
            piece = piece.replace(old, new)
        return piece.encode()

    return spell


def _eos_of_folder(folder: Path, described: Mapping[str, Any]) -> list[int]:
    """From generation_config.json, else config.json, else the name in tokenizer_config.json."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            eos = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
            if eos is not None:
                return list(eos) if isinstance(eos, list) else [eos]
    if (folder / "tokenizer_config.json").is_file():
        eos = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
        text = eos["content"] if isinstance(eos, Mapping) else eos
        return [token["id"] for token in described.get("added_tokens", ()) if token["content"] == text]
    return []


def tiktoken_tokens(encoding: Any) -> tuple[list[bytes], list[int]]:
    """The same out of a `tiktoken.Encoding`, which may leave numbers unused."""
    special = {encoding.encode_single_token(name) for name in encoding.special_tokens_set}
    tokens: list[bytes] = []
    for token in range(encoding.n_vocab):
        try:
            tokens.append(b"" if token in special else encoding.decode_single_token_bytes(token))
        except KeyError:
            tokens.append(b"")
    return tokens, [encoding.eot_token] if "<|endoftext|>" in encoding.special_tokens_set else []


def sentencepiece_tokens(processor: Any) -> tuple[list[bytes], list[int]]:
    """The same out of a `sentencepiece.SentencePieceProcessor`."""
    spell = _speller([{"type": "Metaspace"}], byte_fallback=True)
    tokens = [
        b""
        if processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i)
        else spell(processor.id_to_piece(i))
        for i in range(processor.get_piece_size())
    ]
    return tokens, [processor.eos_id()] if processor.eos_id() >= 0 else []


def gguf_tokens(path: str | Path) -> tuple[list[bytes], list[int]]:
    """The same out of a GGUF file's metadata."""
    try:
        gguf = importlib.import_module("gguf")
    except ImportError as error:
        raise InvalidVocabulary("install the package gguf to read GGUF files") from error
    fields = gguf.GGUFReader(path).fields
    names = {
        "model": "tokenizer.ggml.model",
        "tokens": "tokenizer.ggml.tokens",
        "kinds": "tokenizer.ggml.token_type",
    }
    missing = [name for name in names.values() if name not in fields]
    if missing:
        raise InvalidVocabulary(f"{path} has no {missing[0]}")
    model = fields[names["model"]].contents()
    if model not in ("gpt2", "llama"):
        raise InvalidVocabulary(f"the tokenizer model {model!r} is not supported")
    decoders = [{"type": "ByteLevel"}] if model == "gpt2" else [{"type": "Metaspace"}]
    spell = _speller(decoders, byte_fallback=model == "llama")
    kind = gguf.TokenType
    tokens = [
        spell(piece)
        if kinds in (kind.NORMAL, kind.BYTE)
        else piece.encode()
        if kinds == kind.USER_DEFINED
        else b""
        for piece, kinds in zip(
            fields[names["tokens"]].contents(), fields[names["kinds"]].contents(), strict=True
        )
    ]
    eos = fields.get("tokenizer.ggml.eos_token_id")
    return tokens, [] if eos is None else [int(eos.contents())]
