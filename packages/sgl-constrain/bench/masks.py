# SPDX-License-Identifier: Apache-2.0
"""Times to the first mask, of masks met for the first time, and of masks met again, over one vocabulary.

    python bench/masks.py path/to/tokenizer.json

Each case is compiled by a compiler that has never seen it, then a text of it is walked twice, always taking
the longest token.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from sgl_constrain import Compiler, Grammar, Vocabulary

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 8},
        "kind": {"enum": ["customer", "supplier", "other"]},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
            "required": ["street"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
CASES: list[tuple[str, Any, str]] = [
    (
        "json_schema",
        PERSON,
        '{"name": "Ada Lovelace", "age": 36, "email": "ada@example.org", "tags": ["maths", "engines"], '
        '"kind": "other", "address": {"street": "12 St James\'s Square", "zip": "12345"}}',
    ),
    ("json_schema", {}, '{"a": [1, 2.5e3, {"b": null}], "c": "x\\ny", "d": true}'),
    ("regex", r"((25[0-5]|2[0-4]\d|[01]?\d\d?)\.){3}(25[0-5]|2[0-4]\d|[01]?\d\d?)", "192.168.1.254"),
    ("regex", r"[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}", "someone.else@mail.example.org"),
    ("regex", r'"[^"\\\x00-\x1f]{0,500}"', '"a string of a few words, counted"'),
    ("regex", r"[\w\d\s]{1,200}", "words and 12 numbers with spaces"),
    (
        "regex",
        r"(?s).{50,700}\nAnswer: (yes|no)",
        "Let us think about this step by step. " * 4 + "\nAnswer: yes",
    ),
]


def tokens(grammar: Grammar, text: bytes, longest: int = 16) -> Iterator[int]:
    """The states at the token boundaries of `text`."""
    known = set(grammar.vocabulary.trie.words)
    state = grammar.start
    while text:
        yield state
        length = next(n for n in range(min(longest, len(text)), 0, -1) if text[:n] in known)
        state = grammar.step_bytes(state, text[:length])
        text = text[length:]
    assert grammar.accepts(state), "the text of the case is not in its language"
    yield state


def microseconds(grammar: Grammar, states: list[int]) -> list[float]:
    times = []
    for state in states:
        start = time.perf_counter()
        grammar.mask(state)
        times.append((time.perf_counter() - start) * 1e6)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokenizer", help="a tokenizer.json, a folder with one, or a GGUF file")
    path = parser.parse_args().tokenizer
    start = time.perf_counter()
    load = Vocabulary.from_gguf if path.endswith(".gguf") else Vocabulary.from_huggingface
    vocabulary = load(path)
    print(f"{vocabulary.size} tokens, loaded in {time.perf_counter() - start:.2f} s")
    Compiler(vocabulary).regex(r"\w\d\s").warm(["a"])  # the process's own tables
    first: list[float] = []
    cold: list[float] = []
    warm: list[float] = []
    print(f"{'case':44} {'first mask ms':>14} {'cold us p50':>12} {'max':>8} {'warm us':>8} {'MB':>6}")
    for kind, source, text in CASES:
        compiler = Compiler(vocabulary)
        start = time.perf_counter()
        grammar: Grammar = getattr(compiler, kind)(source)
        grammar.mask(grammar.start)
        first.append((time.perf_counter() - start) * 1e3)
        states = list(tokens(grammar, text.encode()))
        new, again = microseconds(grammar, states), microseconds(grammar, states)
        cold, warm = cold + new, warm + again
        size = grammar.nbytes / 2**20
        shown = f"{np.median(new):12.0f} {max(new):8.0f} {np.median(again):8.2f} {size:6.1f}"
        print(f"{kind + ' ' + str(source)[:30]:44} {first[-1]:14.2f} {shown}")
    print(
        f"first mask ms p50 {np.median(first):.2f}, max {max(first):.2f}; "
        f"cold us mean {np.mean(cold):.0f}, p99 {np.percentile(cold, 99):.0f}; "
        f"warm us p50 {np.median(warm):.2f}, p99 {np.percentile(warm, 99):.2f}"
    )


if __name__ == "__main__":
    main()
