# SPDX-License-Identifier: Apache-2.0
"""The bytes of a tokenizer's tokens, out of the files and objects in which tokenizers come.

A token is written in one of two ways: *byte-level* (each byte stands as one printable character, by GPT-2's
table), or as text with `▁` for a space and `<0x0A>` for bytes that are no text by themselves. The decoder of
the tokenizer says which, and its steps are followed as the library takes them. A decoder that does anything
else, or that looks at a token's neighbours, is refused by name: its tokens would not add up to the text.
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
_MOST_TOKENS = 50_000_000  # beyond it an id is a mistake, not a token


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
            raise InvalidVocabulary(
                f"there is no file {file}; a tokenizer.model is read by Vocabulary.from_sentencepiece"
            )
        described = _json(file)
        return _tokens(described), _eos_of_folder(file.parent, described)
    backend = getattr(source, "backend_tokenizer", source)
    if not hasattr(backend, "to_str"):
        raise InvalidVocabulary(f"{type(source).__name__} is neither a path nor a (fast) tokenizer")
    eos = getattr(source, "eos_token_id", None)
    return _tokens(json.loads(backend.to_str())), [] if eos is None else [eos]


def _json(file: Path) -> Mapping[str, Any]:
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidVocabulary(f"{file} is not JSON: {error}") from error
    if not isinstance(described, Mapping):
        raise InvalidVocabulary(f"{file} is not a JSON object")
    return described


def _tokens(described: Mapping[str, Any]) -> list[bytes]:
    model = described.get("model", {})
    vocabulary = model.get("vocab")
    if not vocabulary:
        raise InvalidVocabulary("the tokenizer has no tokens at model.vocab")
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores, in order
        pieces = {i: piece for i, (piece, _) in enumerate(vocabulary)}
    else:
        pieces = {i: piece for piece, i in vocabulary.items()}
    if model.get("end_of_word_suffix") or model.get("type") == "WordPiece":
        raise InvalidVocabulary("tokens that mark the ends or continuations of words do not add up to a text")
    spell = _speller(list(_decoders(described.get("decoder"))))
    special: set[int] = set()
    for token in described.get("added_tokens", ()):
        pieces[token["id"]] = token["content"]
        if token.get("special"):
            special.add(token["id"])
    last = max(pieces)
    if not 0 <= min(pieces) <= last < _MOST_TOKENS:
        raise InvalidVocabulary(f"the ids {min(pieces)} to {last} cannot be those of {len(pieces)} tokens")
    return [b"" if i in special or i not in pieces else spell(pieces[i]) for i in range(last + 1)]


def _decoders(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if decoder is None:
        raise InvalidVocabulary("the tokenizer has no decoder, so it does not say what its tokens spell")
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _decoders(part)
    else:
        yield decoder


def _speller(decoders: Sequence[Mapping[str, Any]]) -> Callable[[str], bytes]:
    """The function from a piece to its bytes, one step for each decoder that changes a piece by itself."""
    steps: list[Callable[[str], str | bytes]] = []
    joined = False  # do the decoders from here on see the whole text as one piece?
    for decoder in decoders:
        match decoder["type"]:
            case "Fuse":
                joined = True
            case "Strip" if joined:
                pass  # trims the two ends of a whole text
            case "ByteLevel" if not joined:
                steps.append(_byte_level)
                joined = True
            case "ByteFallback" if not joined:
                steps.append(_byte_fallback)
            case "Metaspace" if not joined:
                steps.append(_replacing(decoder.get("replacement", "▁"), " "))
            case "Replace" if "String" in decoder["pattern"] and (
                not joined or len(decoder["pattern"]["String"]) == 1
            ):
                steps.append(_replacing(decoder["pattern"]["String"], decoder["content"]))
            case kind:
                raise InvalidVocabulary(
                    f"the decoder {kind!r} is not supported here: give the tokens' bytes to Vocabulary"
                )
    if _byte_level in steps and len(steps) > 1:
        raise InvalidVocabulary(
            "the decoder 'ByteLevel' is not supported beside others: give bytes to Vocabulary"
        )

    def spell(piece: str) -> bytes:
        spelled: str | bytes = piece
        for step in steps:
            if isinstance(spelled, str):
                spelled = step(spelled)
        return spelled.encode() if isinstance(spelled, str) else spelled

    return spell


_BYTE_OF = byte_characters()


def _byte_level(piece: str) -> str | bytes:
    try:
        return bytes(_BYTE_OF[character] for character in piece)
    except KeyError:
        return piece  # an added token, which stands as it is


def _byte_fallback(piece: str) -> str | bytes:
    byte = _BYTE_PIECE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else piece


def _replacing(old: str, new: str) -> Callable[[str], str]:
    return lambda piece: piece.replace(old, new)


def _eos_of_folder(folder: Path, described: Mapping[str, Any]) -> list[int]:
    """From generation_config.json, else config.json, else the name in tokenizer_config.json."""
    for name in ("generation_config.json", "config.json"):
        if (folder / name).is_file():
            eos = _json(folder / name).get("eos_token_id")
            if eos is not None:
                return list(eos) if isinstance(eos, list) else [eos]
    if (folder / "tokenizer_config.json").is_file():
        eos = _json(folder / "tokenizer_config.json").get("eos_token")
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
    tokens: list[bytes] = []
    for i in range(processor.get_piece_size()):
        piece = processor.id_to_piece(i)
        if processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i):
            tokens.append(b"")
        elif processor.is_byte(i):
            tokens.append(bytes([int(piece[3:5], 16)]))
        else:
            tokens.append(piece.replace("▁", " ").encode())
    return tokens, [processor.eos_id()] if processor.eos_id() >= 0 else []


def gguf_tokens(path: str | Path) -> tuple[list[bytes], list[int]]:
    """The same out of a GGUF file's metadata. The ids that end a text: of `eos`, `eot` and `eom`."""
    try:
        gguf = importlib.import_module("gguf")
    except ImportError as error:
        raise InvalidVocabulary("install the package gguf to read GGUF files") from error
    try:
        fields = gguf.GGUFReader(path).fields
    except ValueError as error:
        raise InvalidVocabulary(f"{path} is not a GGUF file: {error}") from error
    names = [f"tokenizer.ggml.{name}" for name in ("model", "tokens", "token_type")]
    missing = [name for name in names if name not in fields]
    if missing:
        raise InvalidVocabulary(f"{path} has no {missing[0]}")
    model, pieces, kinds = (fields[name].contents() for name in names)
    if model not in ("gpt2", "llama"):
        raise InvalidVocabulary(f"the tokenizer model {model!r} is not supported, but gpt2 and llama are")
    normal = _speller([{"type": "ByteLevel"} if model == "gpt2" else {"type": "Metaspace"}])
    spell = {
        gguf.TokenType.NORMAL: normal,
        gguf.TokenType.BYTE: _speller([{"type": "ByteFallback"}]),
        gguf.TokenType.USER_DEFINED: str.encode,  # as it is, also a `▁`
    }
    tokens = [spell[kind](piece) if kind in spell else b"" for piece, kind in zip(pieces, kinds, strict=True)]
    ends = (fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return tokens, sorted({int(end.contents()) for end in ends if end is not None})
