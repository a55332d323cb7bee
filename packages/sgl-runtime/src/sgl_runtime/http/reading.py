# SPDX-License-Identifier: Apache-2.0
"""`AnswerReader`: one sample's outputs as pieces of an answer, and how many of its tokens were reasoning."""

from __future__ import annotations

from sgl_runtime.engine.stream import Output
from sgl_runtime.http.api import Api
from sgl_runtime.http.dialogue import Composed
from sgl_runtime.text.answer.pieces import Call, Piece, Reasoning, Text


class AnswerReader:
    """`add` each output of the sample; what all calls return, joined, does not depend on how many there
    were.
    """

    def __init__(self, api: Api, composed: Composed) -> None:
        self._reader = None if composed.reader is None else composed.reader()
        self.called = False
        self._tokenizer = api.tokenizer
        marks = None if api.dialect is None else api.dialect.marks
        self._end = None if marks is None else marks.end.encode()
        self._tail: bytes | None = b""  # of the reasoning; None when it has ended
        self._tokens = 0
        self._reasons = False

    def add(self, output: Output) -> list[Piece]:
        if self._reader is None:
            return [Text(output.new_text)] if output.new_text else []
        pieces = self._reader.push(output.new_text)
        if output.finish is not None:
            pieces += self._reader.finish()
        self._reasons = self._reasons or any(isinstance(piece, Reasoning) for piece in pieces)
        self.called = self.called or any(isinstance(piece, Call) for piece in pieces)
        self._count(output.new_tokens)
        return pieces

    @property
    def reasoning_tokens(self) -> int:
        """Those up to the mark that ends the reasoning, with it."""
        return self._tokens if self._reasons else 0

    def _count(self, tokens: list[int]) -> None:
        if self._end is None or self._tokenizer is None:
            return
        for token in tokens:
            if self._tail is None:
                return
            self._tokens += 1
            tail = self._tail + self._tokenizer.vocabulary[token]
            self._tail = None if self._end in tail else tail[-len(self._end) :]
