# SPDX-License-Identifier: Apache-2.0
"""The outputs of one request, on their way from the channel to whoever reads them.

The client pushes deltas and never waits; the reader takes what has gathered since it last looked, so a slow
reader gets fewer and larger pieces and costs less. Tokens become text when they are taken, not when they
arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TypeAlias

import msgspec

from sgl_runtime.engine.figures import Times
from sgl_runtime.engine.request import Sample
from sgl_runtime.errors import InvalidRequest, Overloaded, SglError
from sgl_runtime.messages import Aborted, Delta, Finish, Generate, Logprobs
from sgl_runtime.text.detokenizer import Detokenizer
from sgl_runtime.text.tokenizer import Tokenizer

NewDetokenizer: TypeAlias = Callable[[Sample], Detokenizer]

# Tokens of a request that is not streamed, of which its replica tells at once. What is aborted lacks the last
# three at most, and load and figures are as old.
_SELDOM = 4


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What one sample has produced since it was last looked at, and its totals."""

    sample: Sample
    new_text: str  # "" as well while a character or what may become a stop string is incomplete
    new_tokens: list[int]
    text: str  # all of it so far
    completion_tokens: int
    forced_tokens: int  # of the completion: not sampled, since the constraint left no choice
    cached_tokens: int  # of the prompt, as the replica counts for this sample
    reused_tokens: int  # of the prompt, computed by an earlier request; for n > 1 that of `Prompt.first`
    finish: Finish | None
    input_logprobs: Logprobs | None  # once, with the first output
    output_logprobs: Logprobs | None  # of `new_tokens`


class Stream:
    """One sample. `every`: how many tokens make a piece worth reading; 0: only the end is."""

    def __init__(
        self, sample: Sample, detokenizer: Detokenizer | None, *, every: int, wake: Callable[[Stream], None]
    ) -> None:
        self.sample = sample
        self.text = ""
        self.completion_tokens = 0
        self.finish: Finish | None = None
        self.cached_tokens = 0
        self.times = Times()
        self._detokenizer = detokenizer
        self._every = every
        self._wake = wake
        self._tokens: list[int] = []
        self._logprobs: list[Logprobs] = []
        self._input_logprobs: Logprobs | None = None
        self._forced = 0
        self._reused: int | None = None
        self._error: SglError | None = None
        self._taken = False

    def asked(self) -> Generate:
        """What its replica is to be sent, and that it need not tell of every token that nobody waits for."""
        every = self._every or _SELDOM
        generate = self.sample.generate
        return generate if generate.every == every else msgspec.structs.replace(generate, every=every)

    def push(self, delta: Delta) -> None:
        """Add what the replica tells. Nothing may follow a finish."""
        assert self.finish is None, "a sample ends once"
        self._tokens += delta.tokens
        if delta.output_logprobs is not None:
            self._logprobs.append(delta.output_logprobs)
        if delta.input_logprobs is not None:
            self._input_logprobs = delta.input_logprobs
        self.cached_tokens = max(self.cached_tokens, delta.cached)
        self._forced += delta.forced
        self.finish = delta.finish
        first = self._every > 0 and self.completion_tokens == 0
        if self.finish is not None or (self._tokens and (first or 0 < self._every <= len(self._tokens))):
            self._wake(self)

    def inherit(self, delta: Delta) -> None:
        """Take over what `Prompt.first` found out about the prompt."""
        self._input_logprobs = delta.input_logprobs
        self._reused = delta.cached

    def fail(self, error: SglError) -> None:
        """Whoever reads this sample gets `error`."""
        self._error = error
        self._wake(self)

    def take(self) -> Output | None:
        """What has gathered, None if nothing has.

        Raises what `fail` was given, and Overloaded or InvalidRequest when the engine turned the sample away
        before its first token.
        """
        if self._error is not None:
            raise self._error
        match self.finish:
            case Aborted(reason, overloaded=True) if not self.completion_tokens and not self._tokens:
                raise Overloaded(reason)
            case Aborted(reason, invalid=True) if not self.completion_tokens and not self._tokens:
                raise InvalidRequest(reason)
        if self._taken or not (self._tokens or self.finish is not None):
            return None
        tokens, self._tokens = self._tokens, []
        logprobs, self._logprobs = self._logprobs, []
        input_logprobs, self._input_logprobs = self._input_logprobs, None
        new_text = self._decode(tokens)
        self.text += new_text
        self.completion_tokens += len(tokens)
        self._taken = self.finish is not None
        return Output(
            sample=self.sample,
            new_text=new_text,
            new_tokens=tokens,
            text=self.text,
            completion_tokens=self.completion_tokens,
            forced_tokens=self._forced,
            cached_tokens=self.cached_tokens,
            reused_tokens=self.cached_tokens if self._reused is None else self._reused,
            finish=self.finish,
            input_logprobs=input_logprobs,
            output_logprobs=_join(logprobs) if logprobs else None,
        )

    def _decode(self, tokens: list[int]) -> str:
        if self._detokenizer is None:
            return ""
        text = self._detokenizer.push(tokens)
        return text if self.finish is None else text + self._detokenizer.finish(self.finish)


class Generation:
    """All samples of one request, read together."""

    def __init__(self, samples: Sequence[Sample], detokenizer: NewDetokenizer | None, *, every: int) -> None:
        self.streams = [
            Stream(sample, detokenizer and detokenizer(sample), every=every, wake=self._wake)
            for sample in samples
        ]
        self._news: dict[int, Stream] = {}
        self._reader: asyncio.Future[None] | None = None  # waits for news

    async def outputs(self) -> AsyncIterator[Output]:
        """Every output of every sample, as they come, until all samples have ended.

        Raises EngineDied or Overloaded when a sample cannot go on; the others are then not worth waiting for.
        """
        loop = asyncio.get_running_loop()
        unfinished = len(self.streams)
        while unfinished:
            if not self._news:
                self._reader = loop.create_future()
                await self._reader
            news, self._news = self._news, {}
            for stream in news.values():
                output = stream.take()
                if output is not None:
                    unfinished -= output.finish is not None
                    yield output

    async def results(self) -> list[Output]:
        """The one output of every sample, by index; for a request that is not streamed."""
        outputs = [output async for output in self.outputs()]
        return sorted(outputs, key=lambda output: output.sample.index)

    def _wake(self, stream: Stream) -> None:
        self._news[stream.sample.index] = stream
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def new_detokenizer(tokenizer: Tokenizer, eos: Collection[int], sample: Sample) -> Detokenizer:
    """A sample's detokenizer. `eos`: the ids that end any text of this model."""
    sampling = sample.generate.sampling
    return Detokenizer(
        tokenizer.vocabulary,
        special=tokenizer.special - sample.text.shown,
        stop=sampling.stop,
        stop_tokens=sampling.stop_token_ids if sampling.ignore_eos else (*sampling.stop_token_ids, *eos),
        skip_special=sample.text.skip_special,
        spaces_between_special=sample.text.spaces_between_special,
        keep_stop=sample.text.keep_stop,
    )


def _join(parts: Sequence[Logprobs]) -> Logprobs:
    return Logprobs(
        tokens=[token for part in parts for token in part.tokens],
        values=[value for part in parts for value in part.values],
        top=[top for part in parts for top in part.top],
    )
