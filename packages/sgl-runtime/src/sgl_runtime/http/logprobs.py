# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities on their way into JSON: token ids get their text, and every number is finite."""

from __future__ import annotations

from typing import TypeAlias

from sgl_runtime.messages import Logprobs
from sgl_runtime.text.tokenizer import Tokenizer

_FLOOR = -9999.0  # JSON has no -inf; a token that was ruled out has this log-probability

Triple: TypeAlias = tuple[float | None, int, str | None]


def finite(value: float) -> float:
    return max(value, _FLOOR)


class Triples:
    """The native endpoint's shape: [log-probability, token id, text or null]."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        """Without a tokenizer the text is null."""
        self._vocabulary = None if tokenizer is None else tokenizer.vocabulary

    def tokens(self, logprobs: Logprobs) -> list[Triple]:
        pairs = zip(logprobs.values, logprobs.tokens, strict=True)
        return [
            (None if value is None else finite(value), token, self._text(token)) for value, token in pairs
        ]

    def top(self, logprobs: Logprobs) -> list[list[Triple]]:
        return [[(finite(value), token, self._text(token)) for token, value in row] for row in logprobs.top]

    def _text(self, token: int) -> str | None:
        return None if self._vocabulary is None else self._vocabulary[token].decode(errors="replace")
