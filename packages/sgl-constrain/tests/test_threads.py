# SPDX-License-Identifier: Apache-2.0
"""One compiler and one grammar under many threads: what comes out is what one thread would have made."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from sgl_constrain import Compiler, Grammar, InvalidPattern, Matcher, Vocabulary, allocate_bitmask

PATTERNS = [rf"(a|b{{{i}}}|\w{{1,{i + 1}}}é)+[0-9]{{{i},}}" for i in range(12)]
TEXTS = ["a1", "bbb42", "abé", "xyé00", "straße日本", "", "bbbbb" + "7" * 11]


def together(count: int, work: Callable[[int], None]) -> None:
    """Run `work(i)` in threads that start at once; the first error of any is raised here."""
    start = threading.Barrier(count)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        start.wait()
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001  # raised below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def test_threads_that_compile_different_grammars(
    vocabulary: Vocabulary, accepts: Callable[[Grammar, str], bool]
) -> None:
    compiler = Compiler(vocabulary, cache_bytes=100_000)  # grammars come and go meanwhile

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(25):
            pattern = rng.choice(PATTERNS)
            grammar = compiler.regex(pattern)
            grammar.mask(grammar.start)
            for text in TEXTS:
                assert accepts(grammar, text) == bool(re.fullmatch(pattern, text)), (pattern, text)

    together(6, work)
    compiler.regex("z")
    assert compiler.nbytes < 100_000


def test_threads_that_walk_one_grammar(vocabulary: Vocabulary) -> None:
    def masks_of(matcher: Matcher, seed: int) -> list[list[int]]:
        rng, row, seen = random.Random(seed), allocate_bitmask(1, vocabulary.size), []
        for _ in range(40):
            matcher.fill_bitmask(row)
            seen.append(row[0].tolist())
            choices = [t for t in matcher.allowed_token_ids().tolist() if t not in vocabulary.eos]
            if not choices or not matcher.accept_token(rng.choice(choices)):
                matcher.reset()
        return seen

    schema = {
        "type": "object",
        "additionalProperties": {"enum": ["é", 1, None]},
        "propertyNames": {"maxLength": 5},
    }
    alone = [masks_of(Matcher(Compiler(vocabulary).json_schema(schema)), seed) for seed in range(6)]
    shared = Compiler(vocabulary).json_schema(schema)
    found: dict[int, list[list[int]]] = {}

    def work(seed: int) -> None:
        found[seed] = masks_of(Matcher(shared), seed)

    together(6, work)
    assert [found[seed] for seed in range(6)] == alone


def test_an_error_reaches_every_thread_that_waits_for_it(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    refused: list[int] = []

    def work(number: int) -> None:
        with pytest.raises(InvalidPattern, match="missing"):
            compiler.regex("(" * 60 + "a")
        refused.append(number)

    together(5, work)
    assert sorted(refused) == list(range(5)) and compiler.nbytes == 0


def test_compiling_on_the_side_while_others_compile(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    futures: dict[int, list[Future[Grammar]]] = {}

    def work(number: int) -> None:
        futures[number] = [compiler.compile_async("regex", pattern) for pattern in PATTERNS]
        compiler.regex(PATTERNS[number])

    together(4, work)
    grammars = [{id(f.result(timeout=60)) for f in column} for column in zip(*futures.values(), strict=True)]
    assert all(len(column) == 1 for column in grammars), "one grammar for one source, whoever asked"
    compiler.close()


def test_closing_finishes_what_was_asked_and_asking_again_works(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    pending = [compiler.compile_async("regex", pattern) for pattern in PATTERNS]
    compiler.close()
    assert all(future.done() for future in pending)
    assert compiler.compile_async("choice", ["a"]).result(timeout=60) is compiler.choice(["a"])
    compiler.close()
    deadline = time.monotonic() + 30
    while any(t.name.startswith("sgl-constrain") for t in threading.enumerate()):
        assert time.monotonic() < deadline, "its thread is still there"
        time.sleep(0.01)
