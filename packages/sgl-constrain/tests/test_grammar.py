# SPDX-License-Identifier: Apache-2.0
"""Masks bit for bit against brute force, random walks, forced text, and independence from the order
of questions.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable

import numpy as np
import pytest

from sgl_constrain import DEAD, DONE, Compiler, Grammar, GrammarTooLarge, Limits, Vocabulary

PATTERNS = [
    r"\d{1,3}(\.\d{1,3}){3}", r"\d{4}-\d{2}-\d{2}", r"[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}",
    r'"[^"\\\x00-\x1f]*"', r".{1,100}", r"[\w\d\s]{1,40}",
    r"x[^,\n]{3,30}(,[^,\n]{0,6}){2}", r"(?i)straße.*", r"[^\x00-\x7f]+", r"(?!.*foo).*",
    r"(?=.*\d)(?=.*[a-z])[a-z0-9]{3,8}", r'\s*\{\s*"name"\s*:\s*"[^"]*"\s*\}', r"(a|b)*a(a|b){6}",
    r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", r"(true|false|null)", "日本.{2}", "[一-龠]{1,5}。?", "é*ß?",
    "[^日]*日", "[\U0001f600-\U0001f64f]+", "(the|of|and)( (the|of|and))*", r"\s{0,20}x", r"#[0-9a-fA-F]{6}",
    r"(\w+ ){2,4}\w+\.", r"([^,\n]*,){3}[^,\n]*", r"a?b?c?d?", r"(ab|a)(bc|c)?", r"\S+\s\S+", r"[ -~]{3,}",
    r"(?s).*", r"[\x00-\x1f]+", r"x{3,5}y{2}", r"(?i)[k-s]+",
]  # fmt: skip


@pytest.fixture(autouse=True)
def both_engines(engine: str) -> None:
    """Every test is run with both."""


@pytest.fixture
def compiler(engine: str, vocabulary: Vocabulary) -> Compiler:
    return Compiler(vocabulary)


def brute_force(grammar: Grammar, state: int, tokens: list[int]) -> set[int]:
    return {token for token in tokens if grammar.step(state, token) != DEAD}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_masks_are_those_of_brute_force(
    compiler: Compiler, allowed: Callable[[Grammar, int], list[int]], pattern: str
) -> None:
    grammar = compiler.regex(pattern)
    rng = random.Random(pattern)
    everything = list(range(grammar.vocabulary.size))
    for _ in range(2):
        state = grammar.start
        for _ in range(12):
            found = allowed(grammar, state)
            assert set(found) == brute_force(grammar, state, everything)
            assert found, "dead end"
            state = grammar.step(state, rng.choice(found))
            if state == DONE:
                break


def test_masks_over_a_real_vocabulary(
    smollm2: Vocabulary, allowed: Callable[[Grammar, int], list[int]]
) -> None:
    compiler = Compiler(smollm2)
    rng = random.Random(0)
    everything = list(range(smollm2.size))
    for pattern in PATTERNS:
        grammar = compiler.regex(pattern)
        state = grammar.start
        for _ in range(rng.randint(0, 4)):
            following = grammar.step(state, rng.choice(allowed(grammar, state)))
            state = following if following != DONE else state
        assert set(allowed(grammar, state)) == brute_force(grammar, state, everything), pattern


@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_walks_end_in_matches(
    compiler: Compiler, random_text: Callable[[Grammar, random.Random], str], pattern: str
) -> None:
    grammar = compiler.regex(pattern)
    rng = random.Random(pattern)
    for _ in range(5):
        text = random_text(grammar, rng)
        assert re.fullmatch(pattern, text), text


def test_masks_do_not_depend_on_the_order_of_questions(vocabulary: Vocabulary) -> None:
    texts = [b'"ab', b'"', b"", b'"the \xe6\x97', b'"ab"', b'"a\xc3']
    masks: list[dict[bytes, bytes]] = []
    for order in (texts, texts[::-1]):
        grammar = Compiler(vocabulary).regex(r'"[^"\\]{0,9}"')
        masks.append(
            {text: grammar.mask(grammar.step_bytes(grammar.start, text)).tobytes() for text in order}
        )
    assert masks[0] == masks[1]


def test_masks_survive_dropped_rows_and_masks(vocabulary: Vocabulary) -> None:
    pattern = r'(\w{1,9}[,. ]|"[^"]*"|\d+é)*'
    roomy = Compiler(vocabulary).regex(pattern)
    tight = Compiler(vocabulary, limits=Limits(rows=40, mask_bytes=3 * vocabulary.words * 4)).regex(pattern)
    for end in range(30):
        text = 'the age,"日本"12éabc."no" '.encode()[:end]
        state = tight.step_bytes(tight.start, text)
        assert (tight.mask(state) == roomy.mask(roomy.step_bytes(roomy.start, text))).all()
    assert tight.epoch > 0


def test_special_tokens_are_never_allowed_and_end_tokens_where_the_text_may_end() -> None:
    vocabulary = Vocabulary([b"a", b"b", b"", b"</s>", b"<end>"], eos=[3, 4], size=64)
    grammar = Compiler(vocabulary).regex("[ab<>/send]+")
    assert grammar.mask(grammar.start).tolist() == [0b00011, 0]
    after = grammar.step(grammar.start, 0)
    assert grammar.mask(after).tolist() == [0b11011, 0]
    assert grammar.step(grammar.start, 3) == DEAD and grammar.step(grammar.start, 2) == DEAD
    assert grammar.step(after, 4) == DONE
    assert grammar.mask(DONE).tolist() == [0b11000, 0] and grammar.step(DONE, 3) == DONE
    assert grammar.mask(DEAD).tolist() == [0, 0] and grammar.step(DONE, 0) == DEAD
    with pytest.raises(IndexError):
        grammar.step(grammar.start, 64)


def test_tokens_with_equal_bytes_are_allowed_together() -> None:
    grammar = Compiler(Vocabulary([b"a", b"b", b"a"], eos=[])).regex("a*")
    assert grammar.mask(grammar.start).tolist() == [0b101]
    assert grammar.step(grammar.start, 0) == grammar.step(grammar.start, 2) != DEAD


def test_equal_masks_have_one_number(vocabulary: Vocabulary) -> None:
    grammar = Compiler(vocabulary).regex(r"[0-9]{9} [0-9]{9}")
    states = [
        grammar.step_bytes(grammar.start, text)
        for text in (b"", b"1", b"123456789", b"123456789 ", b"123456789 1")
    ]
    ids = [grammar.mask_id(state) for state in states]
    assert ids == [0, 0, 1, 0, 0]
    table = grammar.masks()
    assert table.shape == (2, vocabulary.words) and table.dtype == np.int32
    assert (table[ids[2]] == grammar.mask(states[2])).all()
    assert grammar.masks(1).shape == (1, vocabulary.words)
    with pytest.raises(ValueError, match="read-only"):
        grammar.mask(states[0])[0] = 0


@pytest.mark.parametrize(
    ("pattern", "text", "forced"),
    [
        ('{"name": "[a-z]+"}', "", '{"name": "'),
        ("true|tree", "", "tr"),
        ("abc|abcd", "", "abc"),
        ("(abc)?", "", ""),
        ("日本|日曜", "", "日"),
        ("[日旦]", "", ""),  # they share two bytes, which are no character
        ("é|è", "", ""),
        ("日本", b"\xe6", b"\x97\xa5\xe6\x9c\xac"),
        ("a{9}b", "aaa", "aaaaaab"),
        ("a{5000}", "", "a" * 4096),
        ("x.*y", "x", ""),
        (r"\d+", "1", ""),
    ],
)
def test_forced_text_is_what_every_continuation_starts_with(
    compiler: Compiler, pattern: str, text: str | bytes, forced: str | bytes
) -> None:
    grammar = compiler.regex(pattern)
    state = grammar.step_bytes(grammar.start, text.encode() if isinstance(text, str) else text)
    expected = forced.encode() if isinstance(forced, str) else forced
    assert grammar.forced(state) == expected


def test_warming_makes_masks_ahead_of_time(vocabulary: Vocabulary) -> None:
    grammar = Compiler(vocabulary).regex(r"[a-z]+=\d+")
    assert grammar.warm() == 1
    assert grammar.warm(["abc=12", b"zz"], seconds=10.0) == 4
    assert grammar.warm(["--"], seconds=10.0) == 4


def test_a_mask_that_takes_too_long_is_an_error(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary, limits=Limits(seconds=0.0))
    with pytest.raises(GrammarTooLarge) as caught:
        compiler.regex("a+b")
    assert caught.value.limit == "seconds"
    grammar = Compiler(vocabulary, limits=Limits(step_seconds=0.0)).regex("a+b")
    for ask in (grammar.mask, grammar.forced, lambda state: grammar.step_bytes(state, b"aab")):
        with pytest.raises(GrammarTooLarge) as caught:
            ask(grammar.start)
        assert caught.value.limit == "step_seconds"


def test_threads_share_a_grammar(vocabulary: Vocabulary) -> None:
    grammar = Compiler(vocabulary).regex(r'\{("[a-z]{1,9}": (\d+|"[^"]*"), ){0,5}\}')
    alone = Compiler(vocabulary).regex(r'\{("[a-z]{1,9}": (\d+|"[^"]*"), ){0,5}\}')
    text = '{"abc": 12, "name": "日本", }'.encode()
    expected = [
        alone.mask(alone.step_bytes(alone.start, text[:end])).tobytes() for end in range(len(text) + 1)
    ]
    found: dict[int, list[bytes]] = {}

    def ask(number: int) -> None:
        order = random.Random(number).sample(range(len(text) + 1), len(text) + 1)
        masks = {end: grammar.mask(grammar.step_bytes(grammar.start, text[:end])).tobytes() for end in order}
        found[number] = [masks[end] for end in range(len(text) + 1)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(masks == expected for masks in found.values()) and len(found) == 4
