# SPDX-License-Identifier: Apache-2.0
"""An engine that follows a script: both ends of the client's channel, a tokenizer of one byte per token.

`Script` is a replica's inbox and outbox at once. It records what it is sent; what it answers is a function of
the prompt and the sampling parameters, so two runs of the same request agree. Knows no model, no scheduler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from sgl_runtime.messages import (
    Abort,
    Aborted,
    Capacity,
    Delta,
    Finish,
    Flush,
    Flushed,
    FromReplica,
    Generate,
    Load,
    Logprobs,
    Message,
    Pooled,
    Profile,
    Profiled,
    Step,
    StoppedByLength,
    StoppedByString,
    StoppedByToken,
)
from sgl_runtime.text.tokenizer import Tokenizer

EOS, BOS, PADDING = 256, 257, 258
CAPACITY = Capacity(slots=4096, rows=8, context_length=512, vocab_size=260)
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def byte_tokenizer(*, template: str | None = TEMPLATE) -> Tokenizer:
    """Token i is byte i; 256 is <eos>, 257 <bos>; the model's ids 258 and 259 are padding."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    vocabulary = {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>", "<bos>"])
    templates = {} if template is None else {"default": template}
    return Tokenizer(backend, {"eos_token": "<eos>", "bos_token": "<bos>"}, templates)


def answer_to(generate: Generate) -> list[int]:
    """The default: the prompt in capitals, turned by the seed if it is not greedy, and the end."""
    text = bytes(token % 256 for token in generate.tokens).upper()
    shift = 0 if generate.sampling.temperature == 0 else generate.sampling.seed % len(text)
    return [*(text[shift:] + text[:shift]), EOS]


def vector_to(generate: Generate) -> list[float]:
    """What a model that pools answers: 64 numbers that depend on every token, of length 1."""
    numbers = np.random.default_rng(generate.tokens).normal(size=64)
    vector: list[float] = (numbers / np.linalg.norm(numbers)).tolist()
    return vector


def logprob(token: int) -> float:
    return -0.25 - token / 1024


def logprobs_of(tokens: Iterable[int], top: int) -> Logprobs:
    tokens = list(tokens)
    top_of = {token: [((token + i) % 260, logprob(token) - i) for i in range(top)] for token in tokens}
    alternatives = [top_of[token] for token in tokens]
    return Logprobs(tokens, [logprob(token) for token in tokens], alternatives)


class Script:
    """`replicas` senders and one receiver. `per_step`: tokens in a Step; None: the test answers. `vector`: of
    a model that pools, in place of an answer.
    """

    def __init__(
        self,
        *,
        replicas: int = 1,
        answer: Callable[[Generate], list[int]] = answer_to,
        per_step: int | None = 3,
        vector: Callable[[Generate], list[float]] | None = None,
    ) -> None:
        self.received: list[tuple[int, Message]] = []
        self.senders = [_Inbox(self, replica) for replica in range(replicas)]
        self.answer = answer
        self.per_step = per_step
        self.vector = vector
        self.flushes = True  # what a Flush is answered with
        self.pauses = 10  # turns of the event loop between two Steps: time for readers to keep up
        self._outbox: asyncio.Queue[FromReplica | Exception] = asyncio.Queue()
        self.profiling: set[int] = set()  # replicas that record
        self.answered: set[str] = set()  # for tests that answer by hand
        self._cached: set[tuple[int, ...]] = set()  # prompts seen before

    async def receive(self) -> FromReplica:
        message = await self._outbox.get()
        for _ in range(self.pauses):
            await asyncio.sleep(0)
        if isinstance(message, Exception):
            raise message
        return message

    def say(self, *deltas: Delta, replica: int = 0, load: Load | None = None) -> None:
        self._outbox.put_nowait(Step(list(deltas), load or Load(), replica))

    def break_down(self, error: Exception) -> None:
        self._outbox.put_nowait(error)

    def hear(self, replica: int, message: Message) -> None:
        self.received.append((replica, message))
        match message:
            case Flush(rid):
                self._outbox.put_nowait(Flushed(rid, self.flushes))
            case Profile(rid, folder):
                self._outbox.put_nowait(self.profiled(replica, rid, folder))
            case Generate() if self.per_step is not None:
                for delta in self.deltas(message, self.per_step):
                    self.say(delta, replica=replica)

    def profiled(self, replica: int, rid: str, folder: str | None) -> Profiled:
        if (replica in self.profiling) == (folder is None):
            return Profiled(rid, error="not now", conflict=True)
        if folder is None:
            self.profiling.add(replica)
            return Profiled(rid)
        self.profiling.remove(replica)
        return Profiled(rid, f"{folder}/replica{replica}.trace.json", "a table")

    @property
    def generates(self) -> list[Generate]:
        return [message for _, message in self.received if isinstance(message, Generate)]

    @property
    def aborts(self) -> list[str]:
        return [message.rid for _, message in self.received if isinstance(message, Abort)]

    def deltas(self, generate: Generate, per_step: int) -> list[Delta]:
        """The whole answer in steps of `per_step` tokens."""
        if self.vector is not None:
            return [Delta(generate.rid, [], Pooled(np.array(self.vector(generate), np.float32)), 1)]
        tokens, finish = _cut(generate, self.answer(generate))
        spec, prompt = generate.logprobs, generate.tokens
        of_prompt = None
        if spec is not None and spec.start >= 0:
            of_prompt = logprobs_of([*prompt[spec.start :], *spec.after], spec.top)
            if spec.start == 0:
                of_prompt = Logprobs(
                    of_prompt.tokens, [None, *of_prompt.values[1:]], [[], *of_prompt.top[1:]]
                )
        cached = len(prompt) - 1 if tuple(prompt) in self._cached else 0
        self._cached.add(tuple(prompt))
        steps = [tokens[i : i + per_step] for i in range(0, len(tokens), per_step)] or [[]]
        return [
            Delta(
                generate.rid,
                step,
                finish if i == len(steps) - 1 else None,
                cached,
                of_prompt if i == 0 else None,
                None if spec is None else logprobs_of(step, spec.top),
            )
            for i, step in enumerate(steps)
        ]


class _Inbox:
    def __init__(self, script: Script, replica: int) -> None:
        self._script = script
        self._replica = replica

    def send(self, message: Message) -> None:
        self._script.hear(self._replica, message)


def _cut(generate: Generate, tokens: list[int]) -> tuple[list[int], Finish]:
    """Where a replica would stop."""
    sampling = generate.sampling
    produced: list[int] = []
    text = b""
    for token in tokens * (sampling.max_new_tokens + 1) if sampling.ignore_eos else tokens:
        if len(produced) == sampling.max_new_tokens:
            return produced, StoppedByLength(sampling.max_new_tokens)
        produced.append(token)
        text += bytes([token]) if token < 256 else b""
        if token in sampling.stop_token_ids or (token == EOS and not sampling.ignore_eos):
            return produced, StoppedByToken(token)
        for stop in sampling.stop:
            if stop in text:
                return produced, StoppedByString(stop)
    return produced, Aborted("the script has ended")
