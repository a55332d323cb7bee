# SPDX-License-Identifier: Apache-2.0
"""`Vocabulary`: the bytes of every token.

The bytes of consecutive tokens, joined, are the UTF-8 of their text, whatever the boundaries between tokens
do to a character. Two spellings are known: byte-level BPE, where each character of a token stands for a byte,
and SentencePiece, where U+2581 is a space and <0x0A> a byte. How text becomes tokens is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec
import tokenizers

from sgl_runtime.errors import ConfigError


class Vocabulary:
    """The bytes of each token id; special tokens have those of their written form, unused ids b"".

    A model's table is often padded beyond its tokenizer: such ids are b"" too.
    """

    def __init__(self, tokens: Sequence[bytes], *, prefix_space: bool = False) -> None:
        self._tokens = tuple(tokens)
        # A space in front of a text is not part of it: SentencePiece puts one before the first word.
        self.prefix_space = prefix_space

    def __len__(self) -> int:
        return len(self._tokens)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._tokens)

    def __getitem__(self, token: int) -> bytes:
        if token < 0:
            raise IndexError(f"{token} is not a token id")
        return self._tokens[token] if token < len(self._tokens) else b""

    def join(self, tokens: Iterable[int]) -> bytes:
        """The bytes of consecutive tokens."""
        return b"".join([self[token] for token in tokens])


def vocabulary_of(backend: tokenizers.Tokenizer) -> Vocabulary:
    """The bytes that the tokenizer's decoder gives each of its tokens.

    Raises ConfigError if the decoder does not work token by token (WordPiece, for one).
    """
    spell, prefix_space = _speller(backend)
    ids = backend.get_vocab(with_added_tokens=True)
    added = backend.get_added_tokens_decoder()
    tokens = [b""] * (max(chain(ids.values(), added), default=-1) + 1)
    for text, token in ids.items():
        tokens[token] = spell(text)
    for token, entry in added.items():
        tokens[token] = entry.content.encode()
    return Vocabulary(tokens, prefix_space=prefix_space)


def _speller(backend: tokenizers.Tokenizer) -> tuple[Callable[[str], bytes], bool]:
    """A function from a token's written form to its bytes, and whether decoding drops a space in front."""
    decoder = backend.decoder
    state: Any = {"type": "none"} if decoder is None else msgspec.json.decode(decoder.__getstate__())
    steps: list[Any] = state["decoders"] if state["type"] == "Sequence" else [state]
    replacements: list[tuple[str, str]] = []
    byte_level = byte_fallback = prefix_space = False
    for step in steps:
        match step:
            case {"type": "ByteLevel"}:
                byte_level = True
            case {"type": "ByteFallback"}:
                byte_fallback = True
            case {"type": "Replace", "pattern": {"String": pattern}, "content": content}:
                replacements.append((pattern, content))
            case {"type": "Metaspace", "replacement": replacement}:
                replacements.append((replacement, " "))
                prefix_space = _prepends(step)
            case {"type": "Strip", "content": " ", "start": start, "stop": 0}:
                prefix_space = start > 0
            case {"type": "Fuse"}:
                pass
            case _:
                raise ConfigError(
                    f"the tokenizer's decoder has a step of type {step['type']}, which does not work token "
                    f"by token; byte-level BPE and SentencePiece tokenizers can be served"
                )
    if byte_level:
        return _byte_level_bytes, False
    return lambda text: _sentencepiece_bytes(text, replacements, byte_fallback), prefix_space


def _prepends(metaspace: Mapping[str, Any]) -> bool:
    return bool(
        metaspace.get("prepend_scheme", "always") != "never" and metaspace.get("add_prefix_space", True)
    )


def _sentencepiece_bytes(text: str, replacements: Sequence[tuple[str, str]], byte_fallback: bool) -> bytes:
    if byte_fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:5], 16)])
        except ValueError:
            pass  # an ordinary token that looks like one
    for old, new in replacements:
        text = text.replace(old, new)
    return text.encode()


def _byte_alphabet() -> dict[int, str]:
    """For str.translate: the characters of byte-level BPE to the Latin-1 character of their byte.

    GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other 68 bytes, in order, for the
    characters from U+0100. A Latin-1 character outside the alphabet becomes one that Latin-1 cannot encode.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = dict.fromkeys(others, "\uffff")
    return alphabet | {0x100 + place: chr(byte) for place, byte in enumerate(others)}


_BYTE_ALPHABET = _byte_alphabet()


def _byte_level_bytes(text: str) -> bytes:
    """A token with a character outside the alphabet is taken as it is written, as the decoder does."""
    try:
        return text.translate(_BYTE_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
