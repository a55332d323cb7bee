# SPDX-License-Identifier: Apache-2.0
"""Forced text as tokens: are they the ones that the tokenizer would have written?

A model that writes a text is taken to write its canonical tokens. Wherever the grammar forces text, the
jump's tokens are compared with the canonical tokens of the *whole* text: where they differ, the model would
have to go on from tokens that it never saw together in training. Beside it the naive way: encode the forced
text by itself and append that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from sgl_constrain.bench.cases import Case
from sgl_constrain.bench.tokenizers import Tokenizer
from sgl_constrain.compiler import Compiler
from sgl_constrain.errors import ConstrainError
from sgl_constrain.matcher import Jump, Matcher
from sgl_constrain.vocabulary import Vocabulary

TAIL = 1  # how many of the last tokens a jump may take back
Way = Callable[[Matcher, Tokenizer, Sequence[int]], Jump]


@dataclass(slots=True)
class Jumps:
    """runs: jumps that made tokens; canonical: those whose tokens are the tokenizer's; saved: tokens that the
    model need not write because of them; tokens: canonical tokens of all texts; seconds: spent on asking for
    a jump at every place.
    """

    runs: int = 0
    canonical: int = 0
    saved: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def __iadd__(self, other: Jumps) -> Jumps:
        self.runs += other.runs
        self.canonical += other.canonical
        self.saved += other.saved
        self.tokens += other.tokens
        self.seconds += other.seconds
        return self


def measure(tokenizer: Tokenizer, cases: Iterable[Case]) -> dict[str, Jumps]:
    """By way of jumping and style of JSON: the valid texts of the schemas among the cases, with a grammar and
    texts without any blanks, and with the blanks of `json.dumps`.
    """
    compiler = Compiler(Vocabulary(tokenizer.tokens, eos=tokenizer.eos))
    found = {f"{way}, {style}": Jumps() for way in _WAYS for style in ("compact", "spaced")}
    for case in cases:
        if case.kind != "schema":
            continue
        for style in ("compact", "spaced"):
            try:
                grammar = compiler.json_schema(case.source, compact=style == "compact")
            except ConstrainError:
                continue
            for text in case.valid if style == "spaced" else map(_compact, case.valid):
                for name, way in _WAYS.items():
                    tokens = tokenizer.encode(text.encode())
                    found[f"{name}, {style}"] += _walk(Matcher(grammar), tokenizer, tokens, way)
    return found


def table(tokenizer: Tokenizer, found: dict[str, Jumps]) -> str:
    """As Markdown."""
    lines = [
        f"### Jump-forward: {tokenizer.name}, {len(tokenizer.tokens)} tokens\n",
        "| way, JSON | forced runs | canonical | tokens saved | of all tokens | us a token of the text |",
        "|" + " --- |" * 6,
    ]
    for name, jumps in found.items():
        canonical, saved = jumps.canonical / max(jumps.runs, 1), jumps.saved / max(jumps.tokens, 1)
        cost = 1e6 * jumps.seconds / max(jumps.tokens, 1)
        lines.append(
            f"| {name} | {jumps.runs} | {canonical:.2%} | {saved:.1%} | {jumps.tokens} | {cost:.0f} |"
        )
    return "\n".join(lines)


def _compact(text: str) -> str:
    return json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))


def _by_the_rule(matcher: Matcher, tokenizer: Tokenizer, written: Sequence[int]) -> Jump:
    return matcher.jump_forward_tokens(tokenizer.encode, written[-TAIL:])


def _naive(matcher: Matcher, tokenizer: Tokenizer, written: Sequence[int]) -> Jump:
    return Jump(0, tuple(tokenizer.encode(matcher.jump_forward_bytes())))


_WAYS: dict[str, Way] = {"by the rule": _by_the_rule, "naive": _naive}


def _walk(matcher: Matcher, tokenizer: Tokenizer, tokens: Sequence[int], way: Way) -> Jumps:
    """Write `tokens`, jumping wherever text is forced. After a jump that is not canonical, go on behind what
    was forced as if it had been.
    """
    jumps = Jumps(tokens=len(tokens))
    stops = list(accumulate(len(tokenizer.tokens[token]) for token in tokens))
    done = 0
    while done < len(tokens):
        start = time.perf_counter()
        jump = way(matcher, tokenizer, tokens[:done])
        jumps.seconds += time.perf_counter() - start
        goal = done + 1
        if jump.tokens:
            kept = done - jump.drop
            reached = kept + len(jump.tokens)
            jumps.runs += 1
            if tuple(tokens[kept:reached]) == jump.tokens:
                jumps.canonical += 1
                jumps.saved += reached - done
                matcher.rollback(jump.drop)
                done, goal = kept, reached
            else:
                forced = (stops[done - 1] if done else 0) + len(matcher.jump_forward_bytes())
                goal = next(i for i, stop in enumerate(stops) if stop >= forced) + 1
        if matcher.accept_tokens(tokens[done:goal]) < goal - done:
            break  # the grammar refuses the text; the other tables tell of that
        done = goal
    return jumps
