# SPDX-License-Identifier: Apache-2.0
"""Data sets whose sizes the user sets: random, chat-like, shared prefixes, many turns, and a file's.

The same seed makes the same requests on every machine. Random prompts are token ids; a file's are text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sgl_runtime.bench.options import ServingOptions
from sgl_runtime.bench.requests import Conversation, Request, Vocabulary, chat_like
from sgl_runtime.errors import ConfigError
from sgl_runtime.text.tokenizer import Tokenizer

Maker = Callable[[random.Random, Vocabulary, ServingOptions], Iterator[Conversation]]

# What of a file is used: as in most published runs, so that figures can be set beside each other.
_SHORTEST, _LONGEST_PROMPT, _LONGEST = 4, 1024, 2048
_NAMES = (("conversations", "value"), ("conversation", "value"), ("messages", "content"))


def _random(rng: random.Random, vocabulary: Vocabulary, options: ServingOptions) -> Iterator[Conversation]:
    """Lengths are uniform between a share of the length asked for and it."""
    for _ in range(options.num_prompts):
        inputs, outputs = (
            rng.randint(max(1, int(length * options.random_range_ratio)), length)
            for length in (options.random_input_len, options.random_output_len)
        )
        yield [Request(vocabulary.ids(rng, inputs), outputs)]


def _chat(rng: random.Random, vocabulary: Vocabulary, options: ServingOptions) -> Iterator[Conversation]:
    for _ in range(options.num_prompts):
        yield [chat_like(rng, vocabulary)]


def _shared_prefix(
    rng: random.Random, vocabulary: Vocabulary, options: ServingOptions
) -> Iterator[Conversation]:
    """Each prefix equally often, in random order, with an end that no other request has."""
    heads = [vocabulary.ids(rng, options.prefix_len) for _ in range(options.num_prefixes)]
    order = [index % len(heads) for index in range(options.num_prompts)]
    rng.shuffle(order)
    for head in order:
        prompt = heads[head] + vocabulary.ids(rng, options.unique_len)
        yield [Request(prompt, options.random_output_len)]


def _multi_turn(
    rng: random.Random, vocabulary: Vocabulary, options: ServingOptions
) -> Iterator[Conversation]:
    """Each turn's prompt is the one before it and new tokens; the answers are not part of it."""
    left = options.num_prompts
    while left > 0:
        history = vocabulary.ids(rng, options.random_input_len)
        turns = []
        for turn in range(min(options.turns, left)):
            history = history + (vocabulary.ids(rng, options.turn_len) if turn else [])
            turns.append(Request(history, options.random_output_len))
        left -= len(turns)
        yield turns


MAKERS: Mapping[str, Maker] = MappingProxyType(
    {"random": _random, "chat": _chat, "shared-prefix": _shared_prefix, "multi-turn": _multi_turn}
)


def sharegpt(
    rng: random.Random, tokenizer: Tokenizer, options: ServingOptions, records: list[Any]
) -> Iterator[Conversation]:
    """The first question of each conversation, as text, with as many tokens asked for as its answer has.

    In random order; without those that are shorter than 4 tokens or longer than usual. Raises ConfigError
    when the file has fewer than are asked for.
    """
    order = [pair for record in records if (pair := _first_pair(record)) is not None]
    rng.shuffle(order)
    made = 0
    for question, answer in order:
        inputs = len(tokenizer.encode(question))
        outputs = options.sharegpt_output_len or len(tokenizer.encode(answer, add_special=False))
        if (
            inputs < _SHORTEST
            or outputs < _SHORTEST
            or inputs > _LONGEST_PROMPT
            or inputs + outputs > _LONGEST
        ):
            continue
        yield [Request(question, outputs, inputs)]
        made += 1
        if made == options.num_prompts:
            return
    raise ConfigError(
        f"--dataset-path {options.dataset_path} has {made} conversations of usual length; "
        f"use --num-prompts {made} or less"
        if made
        else f"--dataset-path {options.dataset_path} has no conversation of two messages of usual length"
    )


def read_sharegpt(path: str) -> list[Any]:
    """The records of the file. Raises ConfigError if it is not a list in JSON."""
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--dataset-path {path} cannot be read as JSON: {error}") from None
    if not isinstance(records, list):
        raise ConfigError(f"--dataset-path {path} holds no list of conversations, as ShareGPT's files do")
    return records


def _first_pair(record: Any) -> tuple[str, str] | None:
    """The first two messages of a conversation that has them."""
    if not isinstance(record, dict):
        return None
    for name, value in _NAMES:
        messages = record.get(name)
        if isinstance(messages, list) and len(messages) >= 2:
            texts = [message.get(value) if isinstance(message, dict) else None for message in messages[:2]]
            if isinstance(texts[0], str) and isinstance(texts[1], str):
                return texts[0], texts[1]
    return None
