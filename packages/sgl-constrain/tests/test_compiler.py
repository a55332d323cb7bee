# SPDX-License-Identifier: Apache-2.0
"""The compiler's memory, its threads and its refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from sgl_constrain import (
    Compiler,
    ConstrainError,
    Grammar,
    GrammarTooLarge,
    InvalidPattern,
    Limits,
    Vocabulary,
)


def test_the_same_source_is_the_same_grammar(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    assert compiler.regex("a+") is compiler.regex("a+")
    assert compiler.regex("a+") is not compiler.regex("a+", flags=2)
    assert compiler.choice(["b", "a"]) is compiler.choice(["a", "b", "a"])


def test_grammars_used_least_recently_are_forgotten(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary, cache_bytes=40_000)
    first, second = compiler.regex("a{1,3}b"), compiler.regex("c")
    for grammar in (first, second):
        grammar.mask(grammar.start)
    assert compiler.regex("a{1,3}b") is first
    third = compiler.regex("[abc]{0,100}")
    third.step_bytes(third.start, b"a" * 80)
    compiler.regex("d")
    assert compiler.nbytes < 40_000
    assert compiler.regex("a{1,3}b") is not first, "it went with the others: one grammar alone was too large"


def test_a_long_source_counts(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary, limits=Limits(source_chars=1 << 20))
    for count, source in ((1, "a" * 100_000), (2, "b" * 100_000)):
        compiler.regex(source)
        assert 200_000 * count < compiler.nbytes < 400_000 * count, "the text, and the word it is"


def test_a_choice_is_exactly_its_options(
    vocabulary: Vocabulary,
    accepts: Callable[[Grammar, str], bool],
    allowed: Callable[[Grammar, int], list[int]],
) -> None:
    options = ["true", "tree", "日本", "", "a.b", "trees"]
    grammar = Compiler(vocabulary).choice(options)
    assert all(accepts(grammar, option) for option in options)
    assert not any(accepts(grammar, text) for text in ("t", "tru", "axb", "treess", "日"))
    assert 256 in allowed(grammar, grammar.start), "the empty option may end at once"


def test_what_matches_nothing_is_refused(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    for pattern in ("(?!)", "a(?=b)c", r"[^\s\S]", "a^b", "x\ud800"):
        with pytest.raises(InvalidPattern, match="no text matches"):
            compiler.regex(pattern)
    with pytest.raises(InvalidPattern, match="no options"):
        compiler.choice([])
    with pytest.raises(GrammarTooLarge):
        Compiler(vocabulary, limits=Limits(source_chars=5)).choice(["abc", "def"])


def test_parts_that_match_nothing_leave_no_dead_ends(
    vocabulary: Vocabulary, accepts: Callable[[Grammar, str], bool]
) -> None:
    grammar = Compiler(vocabulary).regex("a(b(?=c)d|e|x(?!)y)")
    assert grammar.forced(grammar.start) == b"ae"
    assert accepts(grammar, "ae") and not accepts(grammar, "abd")


def test_an_error_is_not_remembered(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    for _ in range(2):
        with pytest.raises(InvalidPattern, match="multiple repeat"):
            compiler.regex("a**")
    assert compiler.nbytes == 0


def test_threads_that_ask_together_compile_once(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    together = threading.Barrier(4)
    found: list[Grammar] = []

    def ask() -> None:
        together.wait()
        found.append(compiler.regex(r"(\w+ ){1,50}"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(map(id, found))) == 1


def test_compiling_on_the_side(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    future = compiler.compile_async("regex", "a+", flags=0)
    assert future.result(timeout=30) is compiler.regex("a+")
    assert compiler.compile_async("choice", ["a"]).result(timeout=30) is compiler.choice(["a"])
    failed = compiler.compile_async("regex", "(")
    assert isinstance(failed.exception(timeout=30), InvalidPattern)
    with pytest.raises(ConstrainError, match="'poem'"):
        compiler.compile_async("poem", "a")
    compiler.close()
    compiler.close()


def test_references_may_point_to_other_documents(
    vocabulary: Vocabulary, accepts: Callable[[Grammar, str], bool]
) -> None:
    compiler = Compiler(vocabulary)
    schema = {"type": "array", "items": {"$ref": "https://example.org/item"}}
    numbers = compiler.json_schema(schema, resources={"https://example.org/item": {"type": "integer"}})
    words = compiler.json_schema(schema, resources={"https://example.org/item": {"enum": ["a"]}})
    assert accepts(numbers, "[1, 2]") and not accepts(numbers, '["a"]')
    assert accepts(words, '["a"]') and not accepts(words, "[1, 2]")
    with pytest.raises(ConstrainError):
        compiler.json_schema(schema)


@pytest.mark.parametrize("blanks", [-1, 1.5, True, None])
def test_how_many_blanks_may_stand_is_a_count(vocabulary: Vocabulary, blanks: Any) -> None:
    with pytest.raises(ConstrainError, match="max_whitespace must be"):
        Compiler(vocabulary).json_schema({}, max_whitespace=blanks)


def test_what_a_choice_refuses(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    with pytest.raises(InvalidPattern, match="lone surrogate"):
        compiler.choice(["yes", "\ud800"])
    for options in ("yes", ["yes", 1]):
        with pytest.raises(TypeError, match=r"^options: "):
            compiler.choice(options)  # type: ignore[arg-type]
