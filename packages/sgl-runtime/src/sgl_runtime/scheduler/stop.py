# SPDX-License-Identifier: Apache-2.0
"""`Stop`: when one request ends, decided after each of its tokens that may be the last.

In this order: end-of-sequence and stop tokens, stop strings, length. Strings are searched in bytes, over the
few last bytes that can still be part of a new match, so the cost does not grow with the output. Knows no
tokenizer.
"""

from __future__ import annotations

from typing import Protocol

from sgl_runtime.messages import Finish, Sampling, StoppedByLength, StoppedByString, StoppedByToken


class TokenBytes(Protocol):
    """The bytes of each token id, as text.Vocabulary or any sequence of bytes."""

    def __getitem__(self, token: int, /) -> bytes: ...
    def __len__(self) -> int: ...


class Stop:
    """The rule of one request and the tail of its output."""

    __slots__ = (
        "_constrained",
        "_overlap",
        "_strings",
        "_tail",
        "_vocabulary",
        "at_eos",
        "limit",
        "tokens",
        "watches",
    )

    def __init__(
        self, sampling: Sampling, *, limit: int, eos: frozenset[int], vocabulary: TokenBytes | None
    ) -> None:
        """`limit`: most output tokens, 0 if nothing is sampled. `vocabulary` is needed for stop strings."""
        self.limit = limit
        self.at_eos = not sampling.ignore_eos  # ends at the model's own end-of-sequence tokens
        # Ends by more than those and the limit, so `check` must see every token.
        self.watches = bool(sampling.stop or sampling.stop_token_ids) or sampling.constraint is not None
        self.tokens = frozenset(sampling.stop_token_ids) | (frozenset() if sampling.ignore_eos else eos)
        self._strings = sampling.stop
        self._constrained = sampling.constraint is not None
        self._vocabulary: TokenBytes = vocabulary if vocabulary is not None else ()
        self._tail = b""
        # A match that the next token completes has at most this many bytes before that token.
        self._overlap = max((len(string) for string in sampling.stop), default=1) - 1

    @property
    def by_length_alone(self) -> bool:
        """The request certainly generates `limit` tokens."""
        return not self.tokens and not self._strings and not self._constrained

    def check(self, token: int, generated: int) -> Finish | None:
        """The end, if `token`, number `generated` of the output, brings it. For each that may, in order."""
        if token in self.tokens:
            return StoppedByToken(token)
        if self._strings and (text := self._found(token)) is not None:
            return StoppedByString(text)
        if generated >= self.limit:
            return StoppedByLength(generated)
        return None

    def _found(self, token: int) -> bytes | None:
        """The stop string that begins first in the output, and of several there the first asked for."""
        # A model may have more token ids than its tokenizer; such a token has no text.
        piece = self._vocabulary[token] if token < len(self._vocabulary) else b""
        window = self._tail + piece
        overlap = self._overlap
        self._tail = window[-overlap:] if overlap else b""
        found = [string for string in self._strings if string in window]
        return min(found, key=window.find) if found else None
