# SPDX-License-Identifier: Apache-2.0
"""Texts for the benchmark's programs, made up on the spot, the same for every run."""

from __future__ import annotations

import random

_THINGS = (
    "lamp", "river", "engine", "violin", "harbour", "mountain", "letter", "garden", "bridge", "clock",
    "market", "window", "forest", "train",
)  # fmt: skip
_WAYS = (
    "slowly", "bright", "heavy", "silent", "golden", "narrow", "ancient", "distant", "gentle", "hollow",
    "early", "northern", "hidden", "steep",
)  # fmt: skip
_ACTS = (
    "crosses", "repairs", "follows", "measures", "paints", "remembers", "carries", "answers", "opens",
    "leaves", "studies", "keeps",
)  # fmt: skip


def sentence(rng: random.Random) -> str:
    """About fifteen tokens."""
    one, two = rng.sample(_THINGS, 2)
    first, second = rng.sample(_WAYS, 2)
    return f"The {first} {one} {rng.choice(_ACTS)} the {second} {two} near the {rng.choice(_THINGS)}."


def paragraph(seed: int, sentences: int) -> str:
    rng = random.Random(seed)
    return " ".join(sentence(rng) for _ in range(sentences))


def questions(count: int) -> list[str]:
    rng = random.Random(7)
    return [f"What does the {rng.choice(_WAYS)} {rng.choice(_THINGS)} number {i} mean?" for i in range(count)]


def examples(count: int, sentences: int = 3) -> str:
    """Question-and-answer pairs with four choices each."""
    rng = random.Random(11)
    shots = []
    for number in range(count):
        things = rng.sample(_THINGS, 4)
        listed = "\n".join(f"{letter}. {thing}" for letter, thing in zip("ABCD", things, strict=True))
        shots.append(
            f"{paragraph(number, sentences)} Which one is it?\n{listed}\nAnswer: {rng.choice('ABCD')}\n\n"
        )
    return "".join(shots)


def choices_question(seed: int) -> str:
    things = random.Random(seed + 100).sample(_THINGS, 4)
    listed = "\n".join(f"{letter}. {thing}" for letter, thing in zip("ABCD", things, strict=True))
    return f"{paragraph(seed + 500, 1)} Which one is it?\n{listed}\nAnswer:"


def react_example() -> str:
    """One worked question, of the kind that ReAct puts before every question."""
    rng = random.Random(3)
    steps = "".join(
        f"Thought {i}: {sentence(rng)}\nAction {i}: Search[{rng.choice(_THINGS)}]\n"
        f"Observation {i}: {sentence(rng)} {sentence(rng)}\n"
        for i in range(1, 6)
    )
    last = f"Thought 6: I know it.\nAction 6: Finish[{rng.choice(_THINGS)}]\n\n"
    return f"Question: {sentence(rng)}\n{steps}{last}"
