# SPDX-License-Identifier: Apache-2.0
"""`GrammarLogitsProcessor`: a grammar in `model.generate(logits_processor=[...])` of transformers.

Needs neither transformers nor torch to be imported: a processor is anything that can be called with ids and
scores. States follow from the tokens, so beam search, which reorders the rows between calls, needs no help.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sgl_constrain.automaton import DEAD, DONE
from sgl_constrain.errors import ConstrainError
from sgl_constrain.grammar import Grammar


class GrammarLogitsProcessor:
    """For one call of `generate`: everything after the prompt of the first call must be in the language.

    A row that has ended is left to its end token. Raises ConstrainError when a row leaves the language, which
    only happens when something after this processor allows what it forbids.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._prompt: int | None = None  # its length
        self._states: dict[tuple[int, ...], int] = {(): grammar.start}

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """input_ids [rows, length], scores [rows, vocabulary]: scores, -inf where a token is forbidden."""
        length = int(input_ids.shape[1])
        if self._prompt is None:
            self._prompt = length
        written = [tuple(row) for row in input_ids[:, self._prompt :].tolist()]
        self._states = {tokens: self._state(tokens) for tokens in written}
        forbidden = np.stack(
            [self._forbidden(self._states[tokens], int(scores.shape[-1])) for tokens in written]
        )
        return scores.masked_fill(scores.new_tensor(forbidden).bool(), float("-inf"))

    def _state(self, tokens: tuple[int, ...]) -> int:
        before = self._states.get(tokens[:-1]) if tokens else None
        if before is None:  # the first call, or a row that was not there in the call before
            state = self._grammar.start
            for token in tokens:
                state = self._step(state, token)
            return state
        return self._step(before, tokens[-1])

    def _step(self, state: int, token: int) -> int:
        if state == DONE:
            return DONE  # padding
        following = self._grammar.step(state, token)
        if following == DEAD:
            raise ConstrainError(f"token {token} is not allowed by the grammar, yet it was generated")
        return following

    def _forbidden(self, state: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        bits = np.unpackbits(self._grammar.mask(state).view(np.uint8), bitorder="little")[:size]
        return np.concatenate([1 - bits, np.ones(max(size - bits.size, 0), dtype=np.uint8)])
