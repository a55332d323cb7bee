# SPDX-License-Identifier: Apache-2.0
"""`GrammarLogitsProcessor`: grammars in `model.generate(logits_processor=[...])` of transformers.

Needs neither transformers nor torch to be imported: a processor is anything that can be called with ids and
scores. States follow from the tokens of a row, so beam search and sampling of several texts, which copy and
reorder rows between calls, need no help.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.errors import ConstrainError
from sgl_constrain.grammar import Grammar
from sgl_constrain.scores import forbidden
from sgl_constrain.states import DEAD, DONE

_Written = tuple[int, bytes]  # a grammar and the tokens after the prompt, as the bytes of their int64 ids


class GrammarLogitsProcessor:
    """For one call of `generate`: everything after the prompt of the first call must be in the language.

    grammar: one for all rows, or one for each prompt of the batch (None leaves a prompt's texts free), all of
    one vocabulary. A prompt's texts, by `num_beams` or `num_return_sequences`, follow one another in the
    rows, as `generate` arranges them. Prompts of different lengths are padded on the left, as it needs them.

    The vocabulary's `eos` must hold the model's `eos_token_id`: that is how a text ends. A row that has ended
    is left to its end token. Raises ConstrainError when a row leaves the language: something after this
    processor allowed what it forbids, or it is used for a second call.

    beams: beam search fills its beams with tokens of probability zero where there are fewer continuations
    than beams. With True such a row ends at once instead of raising; `generate` returns it, with the score
    -inf, only when more texts are asked for than the search found.
    """

    supports_continuous_batching = False  # rows there belong to texts of different beginnings

    def __init__(self, grammar: Grammar | Sequence[Grammar | None], *, beams: bool = False) -> None:
        self._grammars = (grammar,) if isinstance(grammar, Grammar) else tuple(grammar)
        if not self._grammars:
            raise ConstrainError("grammar: give one, or one for each prompt of the batch")
        self._beams = beams
        self._prompt: int | None = None  # its length
        self._states: dict[_Written, int] = {}  # of the rows of the last call

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """input_ids [rows, length] int64, scores [rows, V] float on any device.

        Returns [rows, V]: the scores, -inf where a token is forbidden. One copy of the ids to the host and
        one of the masks, V / 8 bytes a row, to the scores' device.
        """
        rows, length = input_ids.shape
        if rows % len(self._grammars):
            raise ConstrainError(
                f"{rows} rows do not come from {len(self._grammars)} prompts: give a grammar for each prompt"
            )
        self._prompt = length if self._prompt is None else self._prompt
        if length < self._prompt:
            raise ConstrainError(
                "a GrammarLogitsProcessor serves one call of generate: make a new one for each"
            )
        written = input_ids[:, self._prompt :].cpu().numpy().astype(np.int64)
        texts_of_prompt = rows // len(self._grammars)
        states: dict[_Written, int] = {}
        masks: list[NDArray[np.int32] | None] = []
        for row, tokens in enumerate(written):
            owner = row // texts_of_prompt
            grammar = self._grammars[owner]
            if grammar is None:
                masks.append(None)
                continue
            key = (owner, tokens.tobytes())
            if key not in states:
                states[key] = self._state(grammar, owner, tokens)
            masks.append(grammar.mask(DONE if states[key] == DEAD else states[key]))
        self._states = states
        return self._masked(masks, scores)

    def _masked(self, masks: list[NDArray[np.int32] | None], scores: Any) -> Any:
        constrained = [row for row, mask in enumerate(masks) if mask is not None]
        if not constrained:
            return scores
        packed = np.stack([mask for mask in masks if mask is not None])
        words = scores.new_empty(0).int().new_tensor(packed)  # int32, on the scores' device
        refused = forbidden(words, int(scores.shape[-1]))
        if len(constrained) == len(masks):
            return scores.masked_fill(refused, float("-inf"))
        everywhere = refused.new_zeros(scores.shape)
        everywhere[constrained] = refused
        return scores.masked_fill(everywhere, float("-inf"))

    def _state(self, grammar: Grammar, owner: int, tokens: NDArray[np.int64]) -> int:
        before = self._states.get((owner, tokens[:-1].tobytes())) if len(tokens) else None
        if before is not None:
            return self._step(grammar, before, int(tokens[-1]))
        state = grammar.start  # the first call, or a row whose beginning was not there in the call before
        for token in tokens.tolist():
            state = self._step(grammar, state, token)
        return state

    def _step(self, grammar: Grammar, state: int, token: int) -> int:
        if state in (DONE, DEAD):
            return state  # padding
        following = grammar.step(state, token) if token < grammar.vocabulary.size else DEAD
        if following == DEAD and not self._beams:
            raise ConstrainError(
                f"token {token} is not allowed by the grammar, yet it was generated: put this processor "
                "last, make a new one for each call of generate, and with num_beams > 1 pass beams=True"
            )
        return following
