# SPDX-License-Identifier: Apache-2.0
"""`Vocabulary`: what each token of a model is in bytes, and the trie over them. One per model, shared by
every grammar.

Knows bytes only: whatever a tokenizer does before and after (merges, normalisation, prefix spaces) is not its
business.
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from sgl_constrain.errors import InvalidVocabulary
from sgl_constrain.slices import Slices
from sgl_constrain.sources import gguf_tokens, huggingface_tokens, sentencepiece_tokens, tiktoken_tokens
from sgl_constrain.trie import Trie

# What numpy raises for a file that is none of its own, was cut off, or has changed.
_UNREADABLE = (ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile, zlib.error)


class Vocabulary:
    """tokens[i]: the bytes that token i adds to the text; b"" for special tokens, which no grammar ever
    allows.

    eos: ids of the tokens that end the text. A grammar allows them where the text may end, whatever their
    bytes. size: the width of the model's logits, when it is larger than the number of tokens; the rest is
    never allowed. Raises InvalidVocabulary.
    """

    def __init__(self, tokens: Sequence[bytes], *, eos: Collection[int], size: int | None = None) -> None:
        self.size = len(tokens) if size is None else size
        if not len(tokens) <= self.size:
            raise InvalidVocabulary(f"{len(tokens)} tokens do not fit into a vocabulary of size {self.size}")
        if not all(isinstance(token, bytes) for token in tokens):
            raise InvalidVocabulary("tokens must be bytes; b'' for a special token")
        self.eos: tuple[int, ...] = tuple(sorted(set(eos)))
        if self.eos and not 0 <= self.eos[0] <= self.eos[-1] < self.size:
            raise InvalidVocabulary(f"eos ids {self.eos} are outside of the vocabulary of size {self.size}")
        self._tokens = list(tokens) + [b""] * (self.size - len(tokens))
        for token in self.eos:
            self._tokens[token] = b""
        self.trie = Trie(self._tokens)
        self.slices = Slices(self.trie, self.size)

    @classmethod
    def from_huggingface(
        cls, source: object, *, eos: Collection[int] | None = None, size: int | None = None
    ) -> Vocabulary:
        """source: a folder of a model, a tokenizer.json, or a tokenizer object of transformers or tokenizers.

        eos: None takes what the folder's configuration or the tokenizer object says. A token is what it adds
        to a text that has begun: a leading `▁` is a space. Raises InvalidVocabulary.
        """
        tokens, found = huggingface_tokens(source)
        return cls(tokens, eos=_known_eos(found if eos is None else eos), size=size)

    @classmethod
    def from_tiktoken(cls, encoding: Any, *, eos: Collection[int] | None = None) -> Vocabulary:
        """encoding: a `tiktoken.Encoding`; its end-of-text token is the default for eos.

        Raises InvalidVocabulary.
        """
        tokens, found = tiktoken_tokens(encoding)
        return cls(tokens, eos=_known_eos(found if eos is None else eos))

    @classmethod
    def from_sentencepiece(cls, processor: Any, *, eos: Collection[int] | None = None) -> Vocabulary:
        """processor: a `sentencepiece.SentencePieceProcessor`. Raises InvalidVocabulary."""
        tokens, found = sentencepiece_tokens(processor)
        return cls(tokens, eos=_known_eos(found if eos is None else eos))

    @classmethod
    def from_gguf(cls, path: str | Path, *, eos: Collection[int] | None = None) -> Vocabulary:
        """The vocabulary inside a GGUF file; needs the package `gguf`. Raises InvalidVocabulary."""
        tokens, found = gguf_tokens(path)
        return cls(tokens, eos=_known_eos(found if eos is None else eos))

    def save(self, path: str | Path) -> None:
        """Write the vocabulary to a file that `load` reads faster than a tokenizer."""
        lengths = np.array([len(token) for token in self._tokens], dtype=np.int32)
        data = np.frombuffer(b"".join(self._tokens), dtype=np.uint8)
        with open(path, "wb") as file:
            np.savez(file, lengths=lengths, data=data, eos=np.array(self.eos, dtype=np.int64))

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """What `save` wrote. Raises InvalidVocabulary."""
        whole = BytesIO(Path(path).read_bytes())
        try:
            with np.load(whole, allow_pickle=False) as file:
                lengths, data, eos = file["lengths"], file["data"], file["eos"]
        except _UNREADABLE as error:
            raise InvalidVocabulary(f"{path} was not written by Vocabulary.save") from error
        kinds = [(column.dtype.kind, column.ndim) for column in (lengths, data, eos)]
        text = data.tobytes()
        if kinds != [("i", 1), ("u", 1), ("i", 1)] or (lengths < 0).any() or lengths.sum() != len(text):
            raise InvalidVocabulary(f"{path} does not hold the bytes of a vocabulary's tokens")
        ends = np.cumsum(lengths).tolist()
        return cls([text[a:b] for a, b in zip([0, *ends], ends, strict=False)], eos=eos.tolist())

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, token: int) -> bytes:
        """The bytes of a token; b"" for special tokens and for those that end the text."""
        if not 0 <= token < self.size:
            raise IndexError(f"token {token} is outside of the vocabulary of size {self.size}")
        return self._tokens[token]

    def join(self, tokens: Iterable[int]) -> bytes:
        return b"".join(self[token] for token in tokens)

    @property
    def words(self) -> int:
        """The width of a bitmask: int32 words of 32 tokens each."""
        return (self.size + 31) // 32

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal vocabularies, on every machine."""
        digest = hashlib.sha256(repr((self.size, self.eos)).encode())
        for token in self._tokens:
            digest.update(len(token).to_bytes(4, "little"))
            digest.update(token)
        return digest.hexdigest()

    def longer(self, beginning: bytes) -> Sequence[bytes]:
        """The tokens that begin with `beginning` and have more bytes, in order."""
        words = self.trie.words
        low = bisect_right(words, beginning)
        high = low
        while high < len(words) and words[high].startswith(beginning):
            high += 1
        return words[low:high]

    def has_longer(self, beginning: bytes) -> bool:
        """Does some token begin with `beginning` and have more bytes?"""
        words = self.trie.words
        low = bisect_right(words, beginning)
        return low < len(words) and words[low].startswith(beginning)


def _known_eos(eos: Collection[int]) -> Collection[int]:
    if not eos:
        raise InvalidVocabulary("the tokenizer does not say which token ends a text: pass eos=[...]")
    return eos
