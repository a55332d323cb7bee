# SPDX-License-Identifier: Apache-2.0
"""`HashRunner`: a fake model that notices when a scheduler mistreats its memory.

Its KV memory stores in each slot the hash of the whole token prefix that ends there. It keeps its own page
table, last tokens and penalty counts from `Batch` alone, as a real runner does, and whenever a pass reads a
slot it asserts that the slot holds the prefix of the request that reads it. The next token is a function of
the prefix hash and of everything in `SamplingArrays`, so a wrong seed, step, bias or count changes the text.
`generate` is the same model without a scheduler.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from sgl_constrain import Compiler, Matcher, Vocabulary

from sgl_runtime.messages import (
    F32,
    Aborted,
    Batch,
    Capacity,
    Constraint,
    Finish,
    Generate,
    Logprobs,
    Masks,
    Pooled,
    Result,
    Sampling,
    SamplingArrays,
    StoppedByConstraint,
    StoppedByLength,
    StoppedByString,
    StoppedByToken,
    ToFollower,
    decoder,
    encode,
)

VOCABULARY: tuple[bytes, ...] = (
    b"</s>",
    b"a",
    b"b",
    b"c",
    b"ab",
    b"ca",
    b"abc",
    b"\xe4",
    b"\xb8\xad",
    b"",
    b" a",
    b"d",
)
V = len(VOCABULARY)
EOS = frozenset({0})
EMPTY_PREFIX = 0x5DEECE66D
COMPILER = Compiler(Vocabulary(VOCABULARY, eos=EOS))


def encode_text(text: bytes) -> list[int]:
    """The tokenizer of this vocabulary: the longest token that fits, then on behind it."""
    tokens: list[int] = []
    while text:
        fitting = [token for token in range(1, V) if VOCABULARY[token] and text.startswith(VOCABULARY[token])]
        if not fitting:
            return []
        tokens.append(max(fitting, key=lambda token: len(VOCABULARY[token])))
        text = text[len(VOCABULARY[tokens[-1]]) :]
    return tokens


def regex(pattern: str) -> Constraint:
    return Constraint("regex", pattern)


_MASK = (1 << 64) - 1


def mix(a: int, b: int) -> int:
    """A 64-bit hash of two numbers (the finaliser of splitmix64)."""
    x = (a * 0x9E3779B97F4A7C15 + b + 0x632BE59BD9B4E019) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def unit(a: int, b: int) -> float:
    return mix(a, b) / 2**64


class Noise(NamedTuple):
    """One row of SamplingArrays."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int
    step: int


def next_token(
    prefix: int,
    noise: Noise,
    bias: Sequence[tuple[int, float]],
    prompt: Collection[int],
    output: Counter[int],
    allowed: Collection[int] = range(V),
) -> int:
    """The token that the model chooses after a prefix, -1 if there is none."""
    scores = [4 * unit(prefix, token) for token in range(V)]
    for token, value in bias:
        scores[token] += value
    for token in range(V):
        if token in prompt or output[token]:
            scores[token] /= noise.repetition_penalty
        scores[token] -= noise.frequency_penalty * output[token]
        scores[token] -= noise.presence_penalty if output[token] else 0.0
    if noise.temperature > 0:
        # Whatever shapes the distribution shapes the choice.
        draw = mix(
            mix(noise.seed, noise.step), hash((noise.temperature, noise.top_p, noise.top_k, noise.min_p))
        )
        scores = [score + noise.temperature * unit(draw, token) for token, score in enumerate(scores)]
    best = max(allowed, key=scores.__getitem__, default=-1)
    return best if best >= 0 and scores[best] > -math.inf else -1


def is_invalid(prefix: int, invalid: int) -> bool:
    return invalid > 0 and prefix % invalid == 0


def logprob(prefix: int, token: int) -> float:
    return math.log(unit(mix(prefix, 77), token))


def top_logprobs(prefix: int, count: int) -> list[tuple[int, float]]:
    scores = [(token, logprob(prefix, token)) for token in range(V)]
    return sorted(scores, key=lambda score: -score[1])[:count]


def vector(prefix: int, invalid: int) -> F32:
    """What is pooled after a prefix, [4]: its hash in four pieces, or one that is no vector."""
    if is_invalid(prefix, invalid):
        return np.full(4, math.nan, np.float32)
    return np.array([prefix >> shift & 0xFFFF for shift in (0, 16, 32, 48)], np.float32)


class HashRunner:
    """Executes batches in the order of the calls."""

    def __init__(self, capacity: Capacity, truth: Callable[[int], list[int]], *, invalid: int) -> None:
        """`truth(row)`: tokens known of the request that is in this row now. `invalid`: after one prefix in
        so many the logits are NaN; 0: after none."""
        self._invalid = invalid
        self._pools = capacity.answers != "text"
        self._truth = truth
        self._kv: list[int | None] = [None] * capacity.slots
        self._page: list[list[int]] = [[-1] * capacity.context_length for _ in range(capacity.rows)]
        self._filled = [0] * capacity.rows
        self._last: list[int | None] = [None] * capacity.rows
        self._prompts: dict[int, set[int]] = {}
        self._outputs: dict[int, Counter[int]] = {}
        self._decoder = decoder(ToFollower)
        self.failing: set[int] = set()  # places in the next batch that it does not compute
        self.failed: list[int] = []  # of the last batch
        self.shared = 0  # tokens that need not be read again
        self.shapes: list[tuple[list[int], int]] = []  # per batch: q_lens, requests that sample

    def forward(self, batch: Batch, masks: Callable[[], Masks | None] = lambda: None) -> Result:
        """`masks` is asked when the memory has been read and written, as late as a real runner may ask."""
        batch = self._decoder.decode(encode(batch))  # what followers see is all there is
        self.failed = sorted(place for place in self.failing if place < len(batch.rows))
        self.failing = set()
        self._enter(batch)
        q_lens, kv_lens, rows = batch.q_lens.tolist(), batch.kv_lens.tolist(), batch.rows.tolist()
        self.shapes.append((q_lens, len(batch.sampled)))
        slots, ids = batch.slots.tolist(), batch.tokens.tolist()
        assert len(set(rows)) == len(rows), "a row stands in a batch once"
        assert len(set(slots)) == len(slots) == len(ids) == sum(q_lens), "two tokens of a batch share a slot"
        spelled: list[list[int]] = []
        offset = 0
        for row, q_len, kv_len in zip(rows, q_lens, kv_lens, strict=True):
            start = kv_len - q_len
            assert q_len > 0 and start == self._filled[row], "a row is extended where it ends"
            tokens = self._resolve(row, start, ids[offset : offset + q_len])
            prefix = self._spell(row, start, tokens)
            spelled.append(prefix)
            # Nothing may be read that this very batch computes: a pass may be split over devices.
            self._check(row, prefix[:start])
            self._page[row][start:kv_len] = slots[offset : offset + q_len]
            self._filled[row] = kv_len
            offset += q_len
        for place, (row, q_len, kv_len) in enumerate(zip(rows, q_lens, kv_lens, strict=True)):
            for position in range(kv_len - q_len, kv_len):
                computed = None if place in self.failed else spelled[place][position]
                self._kv[self._page[row][position]] = computed
        for place, (row, prefix) in enumerate(zip(rows, spelled, strict=True)):
            if place not in self.failed:
                self._check(row, prefix)
        self._check_shared(batch, rows, q_lens, kv_lens)
        return self._result(batch, rows, q_lens, kv_lens, spelled, masks())

    def _check_shared(self, batch: Batch, rows: list[int], q_lens: list[int], kv_lens: list[int]) -> None:
        """Runs are disjoint and ascending, and their requests have had the same slots before this pass."""
        end = 0
        for run in batch.shared:
            assert run.first >= end and run.rows > 1, "runs are disjoint, ascending, of several requests"
            end = run.first + run.rows
            first = self._page[rows[run.first]][: run.tokens]
            for index in range(run.first, end):
                assert run.tokens <= kv_lens[index] - q_lens[index], "what is shared is computed already"
                assert self._page[rows[index]][: run.tokens] == first, "a shared run has other slots"
            self.shared += run.tokens * (run.rows - 1)

    def _enter(self, batch: Batch) -> None:
        for prefix in batch.prefixes:
            self._filled[prefix.row] = len(prefix.slots)
            self._page[prefix.row] = prefix.slots.tolist() + [-1] * (len(self._page[0]) - len(prefix.slots))
            self._last[prefix.row] = None
            self._prompts.pop(prefix.row, None)
            self._outputs.pop(prefix.row, None)
        for history in batch.sampling.histories:
            self._prompts[history.row] = set(history.prompt.tolist())
            self._outputs[history.row] = Counter(history.output.tolist())

    def _resolve(self, row: int, start: int, ids: list[int]) -> list[int]:
        tokens: list[int] = []
        for position, token in enumerate(ids, start=start):
            last = self._last[row]
            if token == -1:
                assert last is not None, "nothing was sampled for this row"
                token = last
            known = self._truth(row)
            assert position >= len(known) or token == known[position], "the tokens are another request's"
            tokens.append(token)
        return tokens

    def _spell(self, row: int, start: int, tokens: list[int]) -> list[int]:
        """The hash of every prefix of the request in this row, when `tokens` are at `start`."""
        hashes: list[int] = []
        prefix = EMPTY_PREFIX
        for token in self._truth(row)[:start]:
            prefix = mix(prefix, token)
            hashes.append(prefix)
        # Tokens in flight have no value on the host; their hash is in the memory, behind a prefix that is
        # checked.
        while len(hashes) < start:
            stored = self._kv[self._page[row][len(hashes)]]
            assert stored is not None, "a slot was read before it was written"
            hashes.append(stored)
        prefix = hashes[-1] if hashes else EMPTY_PREFIX
        for token in tokens:
            prefix = mix(prefix, token)
            hashes.append(prefix)
        return hashes

    def _check(self, row: int, prefix: list[int]) -> None:
        for position, expected in enumerate(prefix):
            assert self._kv[self._page[row][position]] == expected, (
                "a slot holds another prefix than the request's"
            )

    def _result(
        self,
        batch: Batch,
        rows: list[int],
        q_lens: list[int],
        kv_lens: list[int],
        spelled: list[list[int]],
        masks: Masks | None,
    ) -> Result:
        if self._pools:
            vectors = [vector(spelled[request][-1], self._invalid) for request in batch.sampled.tolist()]
            pooled = np.stack(vectors) if vectors and not self.failed else None
            return Result(np.zeros(len(vectors), np.int32), pooled=pooled)
        sampling = batch.sampling
        allowed: list[Collection[int]] = [range(V) for _ in batch.sampled]
        if masks is not None:
            for index, bits in zip(masks.rows.tolist(), masks.bits, strict=True):
                allowed[index] = [token for token in range(V) if bits[0] >> token & 1]
        bias: list[list[tuple[int, float]]] = [[] for _ in batch.sampled]
        arrays = (sampling.bias_rows.tolist(), sampling.bias_tokens.tolist(), sampling.bias_values.tolist())
        for index, token, value in zip(*arrays, strict=True):
            bias[index].append((token, value))
        chosen: list[int] = []
        entries: list[tuple[float, list[tuple[int, float]]] | None] = []
        for index, request in enumerate(batch.sampled.tolist()):
            row, prefix = rows[request], spelled[request][-1]
            prompt = self._prompts.get(row, set())
            output = self._outputs.setdefault(row, Counter())
            noise = _noise(sampling, index)
            token = next_token(prefix, noise, bias[index], prompt, output, allowed[index])
            token = -1 if is_invalid(prefix, self._invalid) else token
            self._last[row] = token
            output[token] += 1
            chosen.append(token)
            top = -1 if batch.logprobs is None else int(batch.logprobs.top[index])
            entries.append(None if top < 0 else (logprob(prefix, token), top_logprobs(prefix, top)))
        tokens = sampling.steps.copy()
        tokens[:] = chosen
        if batch.logprobs is None:
            return Result(tokens)
        at = [prefix[kv - q :] for prefix, q, kv in zip(spelled, q_lens, kv_lens, strict=True)]
        computed = [prefix for run in at for prefix in run]
        asked = (batch.logprobs.input_index, batch.logprobs.input_targets, batch.logprobs.input_top)
        scores = [
            (logprob(computed[index], target), top_logprobs(computed[index], top))
            for index, target, top in zip(*(array.tolist() for array in asked), strict=True)
        ]
        return Result(tokens, output_logprobs=entries, input_logprobs=scores)


def _noise(sampling: SamplingArrays, index: int) -> Noise:
    return Noise(
        *(
            array[index].item()
            for array in (
                sampling.temperature,
                sampling.top_p,
                sampling.top_k,
                sampling.min_p,
                sampling.frequency_penalty,
                sampling.presence_penalty,
                sampling.repetition_penalty,
                sampling.seeds,
                sampling.steps,
            )
        )
    )


@dataclass
class Answer:
    """Everything a request is told."""

    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    input_logprobs: Logprobs | None = None
    output_logprobs: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)


class Guide:
    """What a constraint says about an output, each time from its first token on."""

    def __init__(self, sampling: Sampling, stops: set[int]) -> None:
        self._grammar = None if sampling.constraint is None else COMPILER.regex(sampling.constraint.text)
        self._stops = stops

    def allowed(self, output: list[int], *, early: bool) -> list[int]:
        if self._grammar is None:
            return list(range(V))
        matcher = self._matcher(output)
        ends = self._stops if matcher.is_complete() and not early else set()
        return sorted(ends | {token for token in range(1, V) if matcher.validate_tokens([token])})

    def is_complete(self, output: list[int]) -> bool:
        if self._grammar is None:
            return False
        matcher = self._matcher(output)
        return matcher.is_complete() and not any(matcher.validate_tokens([token]) for token in range(1, V))

    def forced(self, output: list[int]) -> Sequence[int]:
        if self._grammar is None:
            return ()
        matcher = self._matcher(output)
        tokens = matcher.jump_forward_tokens(encode_text).tokens
        return list(takewhile(lambda token: token not in self._stops, tokens))

    def _matcher(self, output: list[int]) -> Matcher:
        assert self._grammar is not None
        matcher = Matcher(self._grammar)
        assert matcher.accept_tokens(output) == len(output), "the output has left its grammar"
        return matcher


def generate(message: Generate, capacity: Capacity, *, invalid: int, jumps: bool = False) -> Answer:
    """What the request must be answered: one token after the other, the whole prefix each time, no memory, no
    batch."""
    sampling, answer, prompt = message.sampling, Answer(), message.tokens
    hashes = [EMPTY_PREFIX]
    for token in prompt:
        hashes.append(mix(hashes[-1], token))
    if capacity.answers != "text":
        pooled = vector(hashes[-1], invalid)
        answer.finish = Aborted("not a number") if np.isnan(pooled).any() else Pooled(pooled)
        return answer
    spec = message.logprobs
    if spec is not None and (spec.start >= 0 or spec.after):
        inside = enumerate(prompt) if spec.start >= 0 else ()
        scored = [*(pair for pair in inside if pair[0] >= spec.start)]
        scored += [(len(prompt), token) for token in spec.after]
        answer.input_logprobs = Logprobs(
            [token for _, token in scored],
            [None if p == 0 else logprob(hashes[p], token) for p, token in scored],
            [[] if p == 0 else top_logprobs(hashes[p], spec.top) for p, _ in scored],
        )
    if sampling.max_new_tokens == 0:
        answer.finish = StoppedByLength(0)
    prefix, text = hashes[-1], b""
    stops = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else EOS)
    guide = Guide(sampling, stops)
    ahead: list[int] = []  # tokens that must be chosen

    def append(token: int) -> None:
        nonlocal prefix, text
        answer.tokens.append(token)
        prefix = mix(prefix, token)
        text += VOCABULARY[token]
        found = [(text.find(stop), stop) for stop in sampling.stop if stop in text]
        if token in stops:
            answer.finish = StoppedByToken(token)
        elif found:
            answer.finish = StoppedByString(min(found, key=lambda where: where[0])[1])
        elif (
            len(answer.tokens) == sampling.max_new_tokens
            or len(prompt) + len(answer.tokens) == capacity.context_length
        ):
            answer.finish = StoppedByLength(len(answer.tokens))

    while answer.finish is None:
        while not ahead and not answer.finish and (forced := guide.forced(answer.tokens)):
            if not jumps or spec is not None:
                ahead = list(forced)
            for token in forced if not ahead else ():
                if answer.finish is None:
                    append(token)
        if answer.finish is None and not ahead and guide.is_complete(answer.tokens):
            answer.finish = StoppedByConstraint()
        if answer.finish is not None:
            break
        if len(prompt) + len(answer.tokens) > capacity.slots:
            answer.finish = Aborted("out of memory")
            break
        step = len(answer.tokens)
        bias = list(sampling.logit_bias)
        if step < sampling.min_new_tokens:
            bias += [(token, -math.inf) for token in stops]
        noise = Noise(
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            sampling.min_p,
            sampling.frequency_penalty,
            sampling.presence_penalty,
            sampling.repetition_penalty,
            sampling.seed,
            step,
        )
        allowed = guide.allowed(answer.tokens, early=step < sampling.min_new_tokens)
        allowed = [ahead.pop(0)] if ahead else allowed
        token = next_token(prefix, noise, bias, prompt, Counter(answer.tokens), allowed)
        if is_invalid(prefix, invalid) or token < 0:
            answer.finish = Aborted("not a number")
            break
        if spec is not None:
            answer.output_logprobs.append((logprob(prefix, token), top_logprobs(prefix, spec.top)))
        append(token)
    return answer
