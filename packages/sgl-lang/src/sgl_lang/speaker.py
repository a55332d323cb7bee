# SPDX-License-Identifier: Apache-2.0
"""`Speaker`: gets the words of a state from its backend, in as few and as cheap calls as the program allows.

It knows how a call is made: streamed or whole, counted, given up, ahead of what is asked, or for a whole turn
at once. It does not know variables, nor what becomes of the words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from sgl_lang.asking import prompt_of
from sgl_lang.backends.protocol import Completion, Prompt
from sgl_lang.errors import BackendError
from sgl_lang.ir import Gen, Select, Text
from sgl_lang.run import Run
from sgl_lang.sampling import SamplingParams, merge
from sgl_lang.speculation import Stock, ahead, can_speculate, fit, sampled_alike, text_alone
from sgl_lang.transcript import Transcript

WORTH_WARMING = 64  # characters; a shorter beginning is computed faster than asked for
_TRIES = 3  # for a model to say a turn in the form in which the program wrote it


class Speaker:
    """What one state says. Used by one thread at a time."""

    def __init__(self, run: Run, *, known: int = 0) -> None:
        self._run = run
        self._known = known  # so many characters at the beginning are in the backend's cache
        self._stock = Stock()
        self._rest: str | None = None  # of a turn that was asked for as a whole

    def forked(self) -> Speaker:
        """The speaker of a fork."""
        return Speaker(self._run, known=self._known)

    def hears(self, after: Transcript, text: str | None = None) -> Transcript:
        """The program said `text`, or (None) began or ended a turn; returns `after`, as it is."""
        self._stock = Stock() if text is None else self._stock.said(text)
        if text is None:
            self._rest = None
        return after

    # -- one generation

    def speak(self, before: Transcript, part: Gen) -> Iterator[Completion]:
        """The answer as it grows, or once; the last completion is the whole of it."""
        params = part.params
        markup: tuple[str, ...] = ()
        if before.role == "assistant":
            markup = self._run.markup().stop
            params = merge(params, SamplingParams(stop=(*(params.stop or ()), *markup)))
        prompt = self._prompt(before, part.name)
        ahead_of = self._run.settings.speculate
        if ahead_of is not None and self._run.capabilities.shape == "text" and can_speculate(params):
            yield self._speculate(prompt, params, ahead_of, markup)
            return
        self._stock = Stock()
        if self._run.settings.stream:
            yield from self._streamed(prompt, params)
        else:
            yield self._whole(prompt, params)

    def _streamed(self, prompt: Prompt, params: SamplingParams) -> Iterator[Completion]:
        completion = Completion("")
        with (
            self._run.requesting(prompt),
            closing(self._run.backend.stream(prompt, params)) as completions,
        ):
            for completion in completions:
                yield completion
        yield self._noted(prompt, completion)

    def _whole(self, prompt: Prompt, params: SamplingParams) -> Completion:
        with self._run.requesting(prompt):
            completion = self._run.backend.generate(prompt, params)
        return self._noted(prompt, completion)

    def _noted(self, prompt: Prompt, completion: Completion) -> Completion:
        """The completion, which is whole now: it is counted, and the backend has cached it."""
        self._known = len(prompt.text) + len(completion.text)
        self._run.count(completion.meta_info)
        for sample in completion.others:  # of the same prompt
            self._run.count({"completion_tokens": sample.meta_info.get("completion_tokens")})
        return completion

    # -- several generations with one call

    def _speculate(
        self, prompt: Prompt, params: SamplingParams, tokens: int, markup: tuple[str, ...]
    ) -> Completion:
        served = self._stock.serve(params)
        meta_info: Mapping[str, Any] = {"finish_reason": {"type": "stop"}, "speculated": True}
        if served is None:
            longer = ahead(params, tokens, markup)
            completion = self._whole(prompt, longer)
            meta_info = completion.meta_info
            served = Stock(completion.text, sampled_alike(params)).serve(params)
            if served is None:
                self._stock = Stock()
                ended = (meta_info.get("finish_reason") or {}).get("type") == "stop"
                too_long = longer.max_new_tokens != params.max_new_tokens and not ended
                return self._whole(prompt, params) if too_long else completion
        text, self._stock = served
        return Completion(text, meta_info)

    def speaks_whole_turns(self, transcript: Transcript, part: Text | Gen) -> bool:
        """Whether this part of a turn is better asked for together with the rest of the turn."""
        return (
            self._run.settings.speculate is not None
            and self._run.capabilities.shape == "chat"
            and transcript.role == "assistant"
            and (isinstance(part, Text) or text_alone(part.params))
        )

    def speak_turn(
        self, before: Transcript, parts: Sequence[Text | Gen]
    ) -> tuple[Sequence[str], Mapping[str, Any]]:
        """The text of each part of the open turn, and what the backend reports of the one call for them.

        Raises BackendError when the model does not say the program's own words in between.
        """
        gens = [part for part in parts if isinstance(part, Gen)]
        rest, self._rest = self._rest, None
        if not gens or rest is not None:
            with suppress(BackendError):  # the turn has gone another way: ask for it as it is now
                texts, beyond = fit(rest or "", parts)
                self._rest = None if rest is None else beyond
                return texts, {"speculated": True}
        assert isinstance(before.content, str), "only text is put off"
        opening = [Text(before.content)] if before.content else []
        longest = max(gen.params.max_new_tokens or 0 for gen in gens)
        params = ahead(gens[0].params, max(self._run.settings.speculate or 0, longest), ())
        for attempt in range(1, _TRIES + 1):
            completion = self._whole(self._prompt(before, gens[0].name, whole_turn=True), params)
            try:
                texts, self._rest = fit(completion.text.lstrip(), [*opening, *parts])
            except BackendError:
                if attempt == _TRIES:
                    raise
            else:
                break
        return texts[len(opening) :], completion.meta_info

    # -- choices, and prefixes

    def choose(self, before: Transcript, part: Select) -> tuple[str, dict[str, Any]]:
        """The choice, and how it came to be."""
        assert part.method is not None, "resolved when it was appended"
        self._stock = Stock()
        prompt = self._prompt(before, part.name)
        with self._run.requesting(prompt):
            scores = self._run.backend.score(prompt, part.choices, unconditional=part.method.unconditional)
        self._run.count(scores.meta_info)
        self._known = len(prompt.text)
        decision = part.method(scores.options)
        choice = part.choices[decision.index]
        means = [sum(option.logprobs) / len(option.logprobs) for option in scores.options]
        tokens = [option.tokens or (None,) * len(option.logprobs) for option in scores.options]
        triples = [
            [(logprob, token, None) for logprob, token in zip(option.logprobs, ids, strict=True)]
            for option, ids in zip(scores.options, tokens, strict=True)
        ]
        told = {
            "normalized_prompt_logprobs": means,
            "input_token_logprobs": triples,
            "output_token_logprobs": [[] for _ in triples],  # nothing is generated
        }
        return choice, {**scores.meta_info, **told, **decision.meta_info}

    def warm(self, transcript: Transcript, forks: int) -> None:
        """Several are about to go on from here: what is not in the backend's cache yet is put there once."""
        new = len(transcript.text) - self._known
        if forks < 2 or new < WORTH_WARMING or not self._run.capabilities.prefix_cache:
            return
        prompt = self._prompt(transcript, None)
        with self._run.requesting(prompt):
            self._run.backend.warm(prompt)
        self._known = len(transcript.text)

    def _prompt(self, transcript: Transcript, name: str | None, *, whole_turn: bool = False) -> Prompt:
        run = self._run
        return prompt_of(transcript, name, run.backend, run.capabilities, whole_turn=whole_turn)
