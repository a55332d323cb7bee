# SPDX-License-Identifier: Apache-2.0
"""Choosing: the three methods on numbers, and what `select` asks for and makes of the answers."""

from __future__ import annotations

import math

import pytest

import sgl_lang as sgl
from sgl_lang import (
    Capabilities,
    OptionScore,
    ProgramError,
    Scripted,
    UnsupportedByBackend,
    greedy_token_selection,
    select,
    token_length_normalized,
    unconditional_likelihood_normalized,
)

# "organ", "organism" = "organ" + "ism", "antidisestablishmentarianism" in six tokens: likely alone, unlikely
# to begin, and certain once begun.
OPTIONS = [
    OptionScore((-0.8,), (-0.5,)),
    OptionScore((-0.8, -1.6), (-2.5, -2.4)),
    OptionScore((-3.0, -0.1, -0.1, -0.1, -0.1, -0.1), (-3.0, -0.1, -0.1, -0.1, -0.1, -0.2)),
]


def test_each_method_has_its_own_preference():
    assert token_length_normalized(OPTIONS).index == 2
    assert greedy_token_selection(OPTIONS).index == 0
    assert unconditional_likelihood_normalized(OPTIONS).index == 1


def test_greedy_selection_is_what_greedy_decoding_arrives_at():
    def pick(*logprobs):
        return greedy_token_selection([OptionScore(tuple(row)) for row in logprobs]).index

    assert pick([-1, -9], [-2, 0]) == 0  # the first token decides
    assert pick([-1, -9], [-1, -3], [-2, 0]) == 1  # among equals the second one does
    assert pick([-1], [-1, -0.5]) == 1  # a shorter one goes on with its mean
    assert pick([-1], [-1, -1.5]) == 0
    assert pick([-1, -1], [-1, -1]) == 0
    assert pick([0.0], [-math.inf]) == 0
    matrix = greedy_token_selection([OptionScore((-1.0,)), OptionScore((-1.0, -3.0))]).meta_info
    assert matrix == {"greedy_logprob_matrix": [[-1.0, -1.0], [-1.0, -3.0]]}


def test_without_unconditional_scores_there_is_nothing_to_compare():
    with pytest.raises(ProgramError, match="without prompt"):
        unconditional_likelihood_normalized([OptionScore((-1.0,))])


@sgl.function
def tool_use(s, question):
    s += "To answer: " + question + ". I need a " + select("tool", ["calculator", "search engine"]) + ". "
    if s["tool"] == "calculator":
        s += "The expression is " + sgl.gen("expression")
    else:
        s += "The word is " + sgl.gen("word")


def test_a_choice_steers_the_program():
    backend = Scripted({"tool": "search engine", "word": "Rome"})
    state = tool_use.run("Rome?", backend=backend)
    assert state.text() == "To answer: Rome?. I need a search engine. The word is Rome"
    assert backend.calls[0].options == ("calculator", "search engine")
    told = state.get_meta_info("tool")
    assert told["normalized_prompt_logprobs"] == [-1.0, 0.0]
    assert told["input_token_logprobs"] == [[(-1.0, None, None)], [(0.0, None, None)]]


def test_gen_with_choices_is_select():
    assert sgl.gen("a", choices=["x", "y"], temperature=0) == select("a", ["x", "y"])
    assert sgl.gen("a", choices=["x"], choices_method=greedy_token_selection) == select(
        "a", ["x"], choices_method=greedy_token_selection
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: select("a", []), "at least one"),
        (lambda: select("a"), "at least one"),
        (lambda: select("a", "xyz"), "several strings"),
        (lambda: select("a", ["x", 1]), "choices must be a str or several"),
        (lambda: select("a", ["x"], temperature=1), "temperature must be 0"),
        (lambda: sgl.gen("a", choices=["x"], max_tokens=3), "drop max_new_tokens"),
        (lambda: sgl.gen("a", choices_method=greedy_token_selection), "goes with choices"),
        (lambda: select(["x"], ["y"]), "name first"),
    ],
)
def test_choices_that_make_no_sense(make, words):
    with pytest.raises(ProgramError, match=words):
        make()


def test_a_method_of_ones_own():
    class Longest:
        unconditional = False

        def __call__(self, options):
            return sgl.Decision(
                max(range(len(options)), key=lambda i: len(options[i].logprobs)), {"why": "long"}
            )

    @sgl.function
    def program(s):
        s += "x" + select("a", ["b", "c"], choices_method=Longest())

    state = program.run(backend=Scripted({"a": "c"}))
    assert (state["a"], state.get_meta_info("a")["why"]) == ("b", "long")


def test_what_a_backend_cannot_score_is_refused_before_it_is_asked():
    @sgl.function
    def program(s, method=None):
        s += "x" + select("a", ["b", "c"], choices_method=method)

    nothing = Scripted({"a": "b"}, capabilities=Capabilities(scores=None))
    with pytest.raises(UnsupportedByBackend, match=r"cannot tell how likely.*RuntimeEndpoint"):
        program.run(backend=nothing)
    walk = Scripted({"a": "b"}, capabilities=Capabilities(scores="walk"))
    with pytest.raises(UnsupportedByBackend, match="greedy_token_selection"):
        program.run(token_length_normalized, backend=walk)
    assert nothing.calls == walk.calls == []
    assert program.run(backend=walk)["a"] == program.run(greedy_token_selection, backend=walk)["a"] == "b"


def test_an_answer_that_is_no_choice_is_an_error():
    state = tool_use.run
    with pytest.raises(sgl.BackendError, match="no choice"):
        state("x", backend=Scripted({"tool": "hammer"}))
