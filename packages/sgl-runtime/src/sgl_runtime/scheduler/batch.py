# SPDX-License-Identifier: Apache-2.0
"""Scheduled work -> one `Batch`, and the note of what its `Result` will mean.

Here, and nowhere else, the numbers move on: `computed` by what the pass computes, `length` by one where it
samples. Slots are already taken when this runs. It does not know why a request was chosen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sgl_runtime.messages import (
    F32,
    I32,
    I64,
    Batch,
    History,
    LogprobArrays,
    Prefix,
    SamplingArrays,
    SharedRun,
)
from sgl_runtime.scheduler.request import Request
from sgl_runtime.scheduler.table import Table

_NONE: I32 = np.empty(0, np.int32)
_NO_VALUES: F32 = np.empty(0, np.float32)
_IN_FLIGHT = np.int32(-1)


@dataclass(slots=True, frozen=True)
class Chunk:
    """Part of the work of a request that has not caught up."""

    request: Request
    slots: I32  # [size], where its tokens go
    entering: bool  # the request is new to its row


@dataclass(slots=True, frozen=True)
class Planned:
    """What the scheduler must remember of a batch until its result arrives."""

    rows: I32  # [m] rows that sample
    owners: I64  # [m] `Table.owner` of each then
    constrained: list[int]  # indices into the m of those whose tokens a grammar limits
    scored: list[tuple[Request, int]]  # prompts of which this many log-probabilities are reported, in order
    ended: list[Request]  # requests that compute their last token and sample none
    everyone: I32  # [n] rows of the batch
    sharing: int  # the first of the n whose tokens are in the prefix cache already


class _Part(NamedTuple):
    """Some of the n requests of a batch, as in `Batch`."""

    rows: I32  # [n]
    q_lens: I32  # [n]
    starts: I32  # [n] computed before
    tokens: I32  # [Σq]
    slots: I32  # [Σq]
    sampled: I32  # [m]


def build(
    table: Table,
    rows: I32,
    slots: I32,
    chunks: list[Chunk],
    edited: Iterable[Request] = (),
    shared: tuple[SharedRun, ...] = (),
) -> tuple[Batch, Planned]:
    """One pass: a token of each of `rows` [d], in `slots` [d], and `chunks`, in this order.

    `edited`: running requests whose penalties have to count anew, since tokens were not sampled or dropped.
    `shared`: of `rows`, as in Batch.
    """
    part = _decode(table, rows, slots)
    prefixes: tuple[Prefix, ...] = ()
    histories = tuple(_history(request) for request in edited)
    ended: list[Request] = []
    scored: list[tuple[Request, int]] = []
    score_arrays = (_NONE, _NONE, _NONE)
    if chunks:
        prefixes, of_entering = _entering(table, chunks)
        histories += of_entering
        scored, score_arrays = _scores(table, chunks, first=len(rows))
        part = _join(part, _prompts(table, chunks))
        ended = [c.request for c in chunks if not c.request.samples and table.need(c.request.row) == 0]
    sampling_rows = part.rows[part.sampled]
    top = table.top[sampling_rows]
    batch = Batch(
        rows=part.rows,
        q_lens=part.q_lens,
        kv_lens=part.starts + part.q_lens,
        tokens=part.tokens,
        slots=part.slots,
        prefixes=prefixes,
        sampled=part.sampled,
        sampling=_sampling(table, sampling_rows, histories),
        logprobs=LogprobArrays(top, *score_arrays) if scored or (top >= 0).any() else None,
        shared=shared,
    )
    constrained = np.flatnonzero(table.constrained[sampling_rows]).tolist()
    table.length[sampling_rows] += 1
    owners = table.owner[sampling_rows]
    return batch, Planned(sampling_rows, owners, constrained, scored, ended, part.rows, len(rows))


def _decode(table: Table, rows: I32, slots: I32) -> _Part:
    starts = table.computed[rows]
    table.slots[rows, starts] = slots
    table.computed[rows] = starts + 1
    # What is in flight has no value here yet: the runner takes what the pass before has sampled for the row.
    tokens = np.where(table.known[rows] == table.length[rows], table.last[rows], _IN_FLIGHT)
    each, once = np.arange(len(rows), dtype=np.int32), np.ones(len(rows), np.int32)
    return _Part(rows, once, starts, tokens, slots, sampled=each)


def _prompts(table: Table, chunks: list[Chunk]) -> _Part:
    rows = np.array([chunk.request.row for chunk in chunks], np.int32)
    q_lens = np.array([len(chunk.slots) for chunk in chunks], np.int32)
    starts = table.computed[rows]
    tokens: list[I32] = []
    for chunk, row, start, q_len in zip(chunks, rows.tolist(), starts.tolist(), q_lens.tolist(), strict=True):
        end = start + q_len
        table.slots[row, start:end] = chunk.slots
        table.computed[row] = end
        known = chunk.request.prompt if end <= table.prompt[row] else chunk.request.tokens()
        tokens.append(known[start:end])
    done = table.computed[rows] == table.length[rows]
    samples = done & (table.limit[rows] > 0)
    table.caught_up[rows] |= samples
    sampled = np.flatnonzero(samples).astype(np.int32)
    slots = np.concatenate([chunk.slots for chunk in chunks])
    return _Part(rows, q_lens, starts, np.concatenate(tokens), slots, sampled)


def _join(decode: _Part, prompts: _Part) -> _Part:
    if not len(decode.rows):
        return prompts
    shifted = prompts._replace(sampled=prompts.sampled + np.int32(len(decode.rows)))
    return _Part(*(np.concatenate(pair) for pair in zip(decode, shifted, strict=True)))


def _entering(table: Table, chunks: list[Chunk]) -> tuple[tuple[Prefix, ...], tuple[History, ...]]:
    """What the runner must know of the requests that are new to their rows, before the pass moves on."""
    prefixes: list[Prefix] = []
    histories: list[History] = []
    for chunk in chunks:
        if chunk.entering:
            request, row = chunk.request, chunk.request.row
            prefixes.append(Prefix(row, table.slots[row, : table.computed[row]].copy()))
            if request.penalised:
                histories.append(_history(request))
    return tuple(prefixes), tuple(histories)


def _history(request: Request) -> History:
    return History(request.row, request.prompt, np.array(request.output, np.int32))


def _scores(
    table: Table, chunks: list[Chunk], *, first: int
) -> tuple[list[tuple[Request, int]], tuple[I32, I32, I32]]:
    """Who is scored, then LogprobArrays.input_index, input_targets and input_top.

    `first`: tokens of the batch before those of the chunks.
    """
    scored: list[tuple[Request, int]] = []
    index, targets, tops = [_NONE], [_NONE], [_NONE]
    offset = first
    for chunk in chunks:
        request, size = chunk.request, len(chunk.slots)
        if request.scores is not None:
            start = int(table.computed[request.row])
            asked = request.scores.ask(start, start + size)
            if count := len(asked.positions):
                scored.append((request, count))
                index.append(asked.positions + np.int32(offset - start))
                targets.append(asked.targets)
                tops.append(np.full(count, request.scores.top, np.int32))
        offset += size
    return scored, (np.concatenate(index), np.concatenate(targets), np.concatenate(tops))


def _sampling(table: Table, rows: I32, histories: tuple[History, ...]) -> SamplingArrays:
    """For the rows that sample, [m], before `length` counts what they sample now."""
    steps = table.length[rows] - table.prompt[rows]
    bias_rows, bias_tokens, bias_values = _biases(table, rows, steps)
    return SamplingArrays(
        temperature=table.temperature[rows],
        top_p=table.top_p[rows],
        top_k=table.top_k[rows],
        min_p=table.min_p[rows],
        frequency_penalty=table.frequency_penalty[rows],
        presence_penalty=table.presence_penalty[rows],
        repetition_penalty=table.repetition_penalty[rows],
        seeds=table.seed[rows],
        steps=steps,
        histories=histories,
        bias_rows=bias_rows,
        bias_tokens=bias_tokens,
        bias_values=bias_values,
    )


def _biases(table: Table, rows: I32, steps: I32) -> tuple[I32, I32, F32]:
    """SamplingArrays.bias_rows, bias_tokens, bias_values."""
    biased = np.flatnonzero(table.biased[rows])
    if not len(biased):
        return _NONE, _NONE, _NO_VALUES
    tokens: list[I32] = []
    values: list[F32] = []
    for index in biased.tolist():
        ids, by = table.at(rows[index]).bias.at(int(steps[index]))
        tokens.append(ids)
        values.append(by)
    lengths = [len(ids) for ids in tokens]
    return np.repeat(biased, lengths).astype(np.int32), np.concatenate(tokens), np.concatenate(values)
