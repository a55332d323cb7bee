# SPDX-License-Identifier: Apache-2.0
"""One call for several generations: what a model said beyond what was asked may answer what is asked next.

A call without stop strings goes on past the end of its own piece. Where the program then appends just the
words with which the model went on, the next generation is there already (the API speculative execution of
https://arxiv.org/abs/2312.07104, section 5). Pure functions of text: nothing here calls a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sgl_lang.errors import BackendError
from sgl_lang.ir import Gen, Text
from sgl_lang.sampling import SamplingParams

# A generation that says anything else is of a kind that text alone cannot serve.
_TEXT_ALONE = frozenset(SamplingParams.__slots__) - {
    "n", "min_new_tokens", "stop_token_ids", "stop_regex", "dtype", "regex", "json_schema", "ebnf",
    "include_stop_str_in_output", "return_logprob", "logprob_start_len", "top_logprobs_num",
    "return_text_in_logprobs",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stock:
    """Words of the model that come after everything said so far, and how they were sampled."""

    text: str = ""
    params: SamplingParams | None = None

    def said(self, text: str) -> Stock:
        """The program says `text`: what remains of the stock if the model said the same, else none."""
        if self.text.startswith(text):
            return replace(self, text=self.text[len(text) :])
        return Stock()

    def serve(self, params: SamplingParams) -> tuple[str, Stock] | None:
        """The answer to a generation with `params`, and the rest; None if the stock does not hold it."""
        if self.params != sampled_alike(params):
            return None
        end = first_stop(self.text, params.stop or ())
        return None if end is None else (self.text[:end], replace(self, text=self.text[end:]))


def text_alone(params: SamplingParams) -> bool:
    """Whether the answer is a text and no more, with no say about its form but stop strings."""
    return _TEXT_ALONE.issuperset(params.asked())


def can_speculate(params: SamplingParams) -> bool:
    """Whether a longer text tells how this generation ends."""
    return any(params.stop or ()) and text_alone(params)


def sampled_alike(params: SamplingParams) -> SamplingParams:
    """What two generations must have in common for one to answer the other."""
    return replace(params, stop=None, max_new_tokens=None)


def ahead(params: SamplingParams, tokens: int, stop: tuple[str, ...]) -> SamplingParams:
    """The parameters of a call that goes on: at least `tokens` tokens, until one of `stop`."""
    return replace(params, max_new_tokens=max(params.max_new_tokens or 0, tokens), stop=stop)


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins in `text`."""
    found = [at for each in stop if each and (at := text.find(each)) >= 0]
    return min(found) if found else None


def fit(said: str, parts: Sequence[Text | Gen]) -> tuple[list[str], str | None]:
    """Divide what a model said in one turn among the parts of that turn, as the program wrote it.

    Returns the text of each part and what the model said beyond them, None if the program's last words are
    others than the model's. A generation ends at its stop string; without one where the program's next words
    begin, or with the turn. Raises BackendError when the program's words before some generation are not those
    that the model said.
    """
    last = max((at for at, part in enumerate(parts) if isinstance(part, Gen)), default=-1)
    position = 0
    together = True
    texts: list[str] = []
    for at, part in enumerate(parts):
        if isinstance(part, Text):
            alike = said.startswith(part.text, position)
            if at < last and not alike:
                raise BackendError(
                    f"the model does not say {part.text!r} where the turn does, but"
                    f" {said[position : position + 40]!r}; ask for exactly this form, or use a backend that"
                    " continues turns"
                )
            texts.append(part.text)
            position += len(part.text)
            together = together and alike
        else:
            following = parts[at + 1] if at < last else None
            stop = (*(part.params.stop or ()), *([following.text] if isinstance(following, Text) else []))
            end = first_stop(said[position:], stop)
            texts.append(said[position:] if end is None else said[position : position + end])
            position += len(texts[-1])
    return texts, said[position:] if together else None
