# SPDX-License-Identifier: Apache-2.0
"""Prompts as users give them -> `PreparedRequest`: tokenised, checked against the limits, n samples each.

After this stage nothing is invalid; a request that is refused here has touched no replica. Knows the limits
of the engine, but neither HTTP nor which endpoint asks.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import msgspec

from sgl_runtime.engine.constraints import Constraints
from sgl_runtime.engine.request import PreparedRequest, Prompt, Sample, TextOptions
from sgl_runtime.engine.sampling import SamplingBody, Spell, check_prompt, check_tokens, resolve, sample_of
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.messages import Capacity, Constraint, Generate, LogprobSpec, Sampling, new_rid
from sgl_runtime.text.tokenizer import Tokenizer

MAX_SAMPLES = 4096  # of one request, all prompts together
MAX_TOP_LOGPROBS = 256
_SHORT_TEXT = 4096  # characters; shorter ones are tokenised at once, in less time than a thread takes to wake


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, as an endpoint understood it; only the types are certain."""

    prompt: str | list[int]
    source: str  # the field the prompt came from, for errors: `text[2]`
    add_special: bool = True  # begin-of-sequence and the like; chat templates write their own


class Ask(Given, frozen=True, kw_only=True):
    """The same with the parameters of what follows it."""

    sampling: SamplingBody
    spell: Spell
    id: str  # the user's name for the answer; with n > 1 a number follows
    rid: str  # what the user may abort it by
    default_length: int | None  # of the answer, when no maximum is given; None: what fits
    logprobs: LogprobSpec | None = None
    shown: frozenset[int] = frozenset()  # special tokens that are text of the answer even so


class Preparation:
    """Everything a request is checked against."""

    def __init__(
        self, tokenizer: Tokenizer | None, limits: Capacity, *, seeds: random.Random, home: int = 0
    ) -> None:
        """`home`: the number of this api process."""
        self._home = home
        self._tokenizer = tokenizer
        self._limits = limits
        self._seeds = seeds
        self._constraints = Constraints()
        # More characters than that cannot fit, however well they are tokenised: no time is spent to find out.
        longest = 0 if tokenizer is None else max(map(len, tokenizer.vocabulary), default=0)
        self._longest = longest * limits.context_length

    async def prepare(self, asks: Sequence[Ask]) -> PreparedRequest:
        """The samples of all asks, prompt by prompt. Raises InvalidRequest naming the field."""
        check_count(sum(ask.sampling.n or 1 for ask in asks), asks[0].spell("n"))
        tokens = await self.tokens(asks)
        prompts: list[Prompt] = []
        index = 0
        for ask, prompt in zip(asks, tokens, strict=True):
            prompts.append(self._expand(ask, prompt, index))
            index += len(prompts[-1].samples)
        checked: set[Constraint] = set()
        for ask, (first, *_) in zip(asks, [prompt.samples for prompt in prompts], strict=True):
            constraint = first.generate.sampling.constraint
            if constraint is not None and constraint not in checked:
                await self._constraints.check(constraint, ask.spell(constraint.kind))
                checked.add(constraint)
        return PreparedRequest(prompts=tuple(prompts))

    async def compiles(self, constraint: Constraint) -> bool:
        """Can it be enforced? Raises Overloaded after a long wait for others."""
        try:
            await self._constraints.check(constraint, "")
        except InvalidRequest:
            return False
        return True

    async def tokens(self, asks: Sequence[Given]) -> list[list[int]]:
        """Each prompt's tokens, which the model has and the server holds. Raises InvalidRequest naming the
        field.
        """
        tokens = await self._tokenize(asks)
        for ask, prompt in zip(asks, tokens, strict=True):
            if not prompt:
                raise InvalidRequest(f"{ask.source}: the prompt holds no token", param=ask.source)
            check_prompt(len(prompt), self._limits, ask.source)
            check_tokens(prompt, self._limits.vocab_size, ask.source)
        return tokens

    async def _tokenize(self, asks: Sequence[Given]) -> list[list[int]]:
        for ask in asks:
            if not ask.prompt:
                raise InvalidRequest(f"{ask.source}: the prompt is empty", param=ask.source)
            if isinstance(ask.prompt, str) and self._tokenizer is None:
                raise InvalidRequest(
                    f"{ask.source}: this server has no tokenizer (--skip-tokenizer-init); send token ids",
                    param=ask.source,
                )
            if isinstance(ask.prompt, str) and len(ask.prompt) > self._longest:
                raise InvalidRequest(
                    f"{ask.source}: a prompt of {len(ask.prompt)} characters cannot fit into the context"
                    f" length of {self._limits.context_length} tokens: shorten it",
                    param=ask.source,
                )
        if sum(len(ask.prompt) for ask in asks if isinstance(ask.prompt, str)) <= _SHORT_TEXT:
            return [self._tokens(ask) for ask in asks]
        return await asyncio.to_thread(lambda: [self._tokens(ask) for ask in asks])

    def _tokens(self, ask: Given) -> list[int]:
        if not isinstance(ask.prompt, str):
            return ask.prompt
        assert self._tokenizer is not None, "checked in _tokenize"
        return self._tokenizer.encode(ask.prompt, add_special=ask.add_special)

    def _expand(self, ask: Ask, tokens: list[int], index: int) -> Prompt:
        limits = self._limits
        sampling = resolve(
            ask.sampling,
            prompt=len(tokens),
            limits=limits,
            default_length=ask.default_length,
            seed=self._seeds.getrandbits(63),
            spell=ask.spell,
        )
        if sampling.constraint is not None and self._tokenizer is None:
            kind = ask.spell(sampling.constraint.kind)
            raise InvalidRequest(
                f"{kind}: a server without a tokenizer (--skip-tokenizer-init) cannot constrain text;"
                " leave the field out",
                param=kind,
            )
        if sampling.stop and self._tokenizer is None:
            raise InvalidRequest(
                f"{ask.spell('stop')}: a server without a tokenizer cannot find strings; use stop_token_ids",
                param=ask.spell("stop"),
            )
        logprobs = self._logprobs(ask, len(tokens))
        n = ask.sampling.n or 1
        first = None
        if n > 1 and logprobs is not None and logprobs.start >= 0:
            first = Generate(
                new_rid(self._home), tokens, Sampling(max_new_tokens=0, temperature=0.0), logprobs
            )
            logprobs = LogprobSpec(top=logprobs.top)
        options = TextOptions(
            skip_special=ask.sampling.skip_special_tokens is not False,
            shown=ask.shown,
            spaces_between_special=ask.sampling.spaces_between_special_tokens is not False,
            keep_stop=bool(ask.sampling.include_stop_str_in_output),
        )
        samples = tuple(
            Sample(
                index=index + sample,
                id=ask.id if n == 1 else f"{ask.id}-{sample}",
                rid=ask.rid,
                generate=Generate(new_rid(self._home), tokens, sample_of(sampling, sample), logprobs),
                text=options,
            )
            for sample in range(n)
        )
        return Prompt(text=ask.prompt if isinstance(ask.prompt, str) else None, samples=samples, first=first)

    def _logprobs(self, ask: Ask, prompt: int) -> LogprobSpec | None:
        if ask.logprobs is None:
            return None
        start, top = ask.logprobs.start, ask.logprobs.top
        if not -1 <= start <= prompt:
            raise InvalidRequest(
                f"{ask.spell('logprob_start_len')} must lie between -1 (none of the prompt) and the prompt's"
                f" {prompt} tokens, got {start}",
                param=ask.spell("logprob_start_len"),
            )
        most = min(MAX_TOP_LOGPROBS, self._limits.vocab_size)
        if not 0 <= top <= most:
            raise InvalidRequest(
                f"{ask.spell('top_logprobs_num')} must lie between 0 and {most}, got {top}",
                param=ask.spell("top_logprobs_num"),
            )
        return LogprobSpec(start=-1 if start == prompt else start, top=top)


def check_count(samples: int, param: str) -> None:
    """Raises InvalidRequest if one request asks for too many prompts, or prompts times n."""
    if samples > MAX_SAMPLES:
        raise InvalidRequest(
            f"{param}: {samples} samples (prompts times n) are more than the {MAX_SAMPLES} of one request",
            param=param,
        )


def tightest(capacities: Sequence[Capacity]) -> Capacity:
    """What every replica can hold: a request may be sent to any of them."""
    return Capacity(
        slots=min(capacity.slots for capacity in capacities),
        rows=min(capacity.rows for capacity in capacities),
        context_length=min(capacity.context_length for capacity in capacities),
        vocab_size=min(capacity.vocab_size for capacity in capacities),
        answers=capacities[0].answers,
    )
