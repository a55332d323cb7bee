# SPDX-License-Identifier: Apache-2.0
"""Eight fixed workloads, which cover what engines are compared by: `--workloads latency offline …`, or all.

Nothing of them can be set but the seed, so that a name stands for the same work everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from sgl_runtime.bench.requests import Conversation, Load, Request, Vocabulary, arriving, chat_like

_ONLINE_RATE = 20.0
_SCHEMA: Mapping[str, Any] = MappingProxyType(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 24},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "house": {"enum": ["Gryffindor", "Slytherin", "Ravenclaw", "Hufflepuff"]},
            "tags": {
                "type": "array",
                "items": {"type": "string", "maxLength": 16},
                "minItems": 4,
                "maxItems": 8,
            },
            "wand": {
                "type": "object",
                "properties": {"wood": {"type": "string", "maxLength": 16}, "length": {"type": "number"}},
                "required": ["wood", "length"],
                "additionalProperties": False,
            },
            "alive": {"type": "boolean"},
        },
        "required": ["name", "age", "house", "tags", "wand", "alive"],
        "additionalProperties": False,
    }
)


def _latency(rng: random.Random, words: Vocabulary) -> Load:
    """One request at a time: 6 of 128 tokens in, 256 out."""
    return _waves("latency", [[Request(words.ids(rng, 128), 256)] for _ in range(6)], 1, stream=True)


def _batch32(rng: random.Random, words: Vocabulary) -> Load:
    """Three times 32 at once: 256 in, 32 out."""
    return _waves("batch32", [[Request(words.ids(rng, 256), 32)] for _ in range(96)], 32, stream=False)


def _offline(rng: random.Random, words: Vocabulary) -> Load:
    """1,000 of a chat's lengths at once."""
    return _at_once("offline", [[chat_like(rng, words)] for _ in range(1000)], stream=False)


def _online(rng: random.Random, words: Vocabulary) -> Load:
    """400 of a chat's lengths, 20 a second."""

    def made() -> Iterator[Conversation]:
        for _ in range(400):
            yield [chat_like(rng, words)]

    return arriving("online", made(), rng, _ONLINE_RATE, stream=True)


def _prefix(rng: random.Random, words: Vocabulary) -> Load:
    """32 prefixes of 2,048 tokens, 32 requests each with 64 of their own, 64 out, shuffled."""
    heads = [words.ids(rng, 2048) for _ in range(32)]
    prompts = [head + words.ids(rng, 64) for head in heads for _ in range(32)]
    rng.shuffle(prompts)
    return _at_once("prefix", [[Request(prompt, 64)] for prompt in prompts], stream=False)


def _multiturn(rng: random.Random, words: Vocabulary) -> Load:
    """64 conversations of 6 turns: 512 tokens, and each turn 160 more, 64 out."""
    talks: list[Conversation] = []
    for _ in range(64):
        own = random.Random(rng.randrange(1 << 30))
        history = words.ids(own, 512)
        turns = []
        for _ in range(6):
            history = history + words.ids(own, 160)
            turns.append(Request(history, 64))
        talks.append(turns)
    return _at_once("multiturn", talks, stream=False)


def _long(rng: random.Random, words: Vocabulary) -> Load:
    """12 prompts of 16,384 tokens at once, 128 out."""
    return _at_once("long", [[Request(words.ids(rng, 16384), 128)] for _ in range(12)], stream=True)


def _structured(rng: random.Random, words: Vocabulary) -> Load:
    """256 at once held to one JSON schema, temperature 1, at most 192 tokens."""
    requests = [
        Request(words.ids(rng, 64), 192, temperature=1.0, seed=seed, ignore_eos=False, schema=dict(_SCHEMA))
        for seed in range(256)
    ]
    return _at_once("structured", [[request] for request in requests], stream=False)


WORKLOADS: Mapping[str, Callable[[random.Random, Vocabulary], Load]] = MappingProxyType(
    {
        "latency": _latency,
        "batch32": _batch32,
        "offline": _offline,
        "online": _online,
        "prefix": _prefix,
        "multiturn": _multiturn,
        "long": _long,
        "structured": _structured,
    }
)


def workload(name: str, seed: int, words: Vocabulary) -> Load:
    """The workload of that name; each has random numbers of its own."""
    return WORKLOADS[name](random.Random(f"{seed}/{name}"), words)


def _at_once(name: str, conversations: list[Conversation], *, stream: bool) -> Load:
    return Load(name, conversations, [0.0] * len(conversations), stream=stream)


def _waves(name: str, conversations: list[Conversation], wave: int, *, stream: bool) -> Load:
    return Load(name, conversations, [0.0] * len(conversations), wave=wave, stream=stream)
