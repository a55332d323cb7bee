# SPDX-License-Identifier: Apache-2.0
"""Our log-probabilities in OpenAI's two shapes: chat's list of tokens, and the parallel lists of completions.

Every generated token has an entry, the stop token too. A token that is no text by itself (half a character)
is spelled by its bytes, as OpenAI does, so that two such tokens stay two.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TypedDict

from sgl_runtime.engine.request import Prompt
from sgl_runtime.http.logprobs import finite
from sgl_runtime.messages import Logprobs
from sgl_runtime.text.tokenizer import Tokenizer


class Alternative(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class Entry(Alternative):
    """A token of the answer."""

    top_logprobs: list[Alternative]


class Lists(TypedDict):
    """Parallel lists, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


def spelled(data: bytes, *, prefix: str = "") -> str:
    """The text of a token, or `\\xe4\\xbd` behind `prefix` where there is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in data)


def chat_entries(tokenizer: Tokenizer, logprobs: Logprobs) -> list[Entry]:
    """`choices[].logprobs.content`."""
    entries: list[Entry] = []
    for token, value, top in zip(logprobs.tokens, logprobs.values, logprobs.top, strict=True):
        assert value is not None, "only a prompt's first token has no probability"
        alternatives = [_chat_entry(tokenizer, other, its) for other, its in top]
        entries.append({**_chat_entry(tokenizer, token, value), "top_logprobs": alternatives})
    return entries


def _chat_entry(tokenizer: Tokenizer, token: int, value: float) -> Alternative:
    data = tokenizer.vocabulary[token]
    return {"token": spelled(data), "logprob": finite(value), "bytes": list(data)}


class CompletionLogprobs:
    """`choices[].logprobs` of one sample, piece by piece; text_offset goes on from piece to piece."""

    def __init__(self, tokenizer: Tokenizer, *, top: int, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._top = top
        self._skip_special = skip_special
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def prompt(self, prompt: Prompt, text: str, logprobs: Logprobs) -> Lists:
        """The echoed prompt, whose text is `text`."""
        # A text was written with all its tokens; token ids are shown like the tokens of an answer.
        pieces = (
            self._shown(prompt.tokens) if prompt.text is None else [self._bytes(t) for t in prompt.tokens]
        )
        # What a tokenizer puts in front, a begin-of-sequence token or a space, has bytes but is not in the
        # text.
        self._offset = len(text) - len(b"".join(pieces).decode(errors="replace"))
        lists = self._lists(logprobs, pieces)
        self._offset, self._decoder = len(text), codecs.getincrementaldecoder("utf-8")(errors="replace")
        return lists

    def completion(self, logprobs: Logprobs) -> Lists:
        return self._lists(logprobs, self._shown(logprobs.tokens))

    def _lists(self, logprobs: Logprobs, pieces: list[bytes]) -> Lists:
        offsets = []
        for piece in pieces:
            offsets.append(max(0, self._offset))
            self._offset += len(self._decoder.decode(piece))
        values = [None if value is None else finite(value) for value in logprobs.values]
        return {
            "tokens": [self._spelled(token) for token in logprobs.tokens],
            "token_logprobs": values,
            "top_logprobs": self._top_lists(logprobs) if self._top else None,
            "text_offset": offsets,
        }

    def _top_lists(self, logprobs: Logprobs) -> list[dict[str, float] | None]:
        """The most likely tokens, and the token itself where it is not among them."""
        rows: list[dict[str, float] | None] = []
        for token, value, top in zip(logprobs.tokens, logprobs.values, logprobs.top, strict=True):
            if value is None:
                rows.append(None)
            else:
                row = {self._spelled(other): finite(its) for other, its in top}
                rows.append({**row, self._spelled(token): finite(value)})
        return rows

    def _shown(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token as far as they become text."""
        hidden = self._tokenizer.special if self._skip_special else frozenset()
        return [b"" if token in hidden else self._bytes(token) for token in tokens]

    def _spelled(self, token: int) -> str:
        return spelled(self._bytes(token), prefix="bytes:")

    def _bytes(self, token: int) -> bytes:
        return self._tokenizer.vocabulary[token]


def joined(first: Lists, second: Lists) -> Lists:
    """Two pieces of `CompletionLogprobs` as one."""
    tops = (first["top_logprobs"], second["top_logprobs"])
    return {
        "tokens": first["tokens"] + second["tokens"],
        "token_logprobs": first["token_logprobs"] + second["token_logprobs"],
        "top_logprobs": None if tops[0] is None or tops[1] is None else tops[0] + tops[1],
        "text_offset": first["text_offset"] + second["text_offset"],
    }
