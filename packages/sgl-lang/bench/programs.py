# SPDX-License-Identifier: Apache-2.0
"""The programs of SGLang's paper, each twice: in this language, and plainly, a request for every text.

Both ask the same of the model, in the same order and with as much going on at once within a program as it
allows. https://arxiv.org/abs/2312.07104, section 6
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

import data

import sgl_lang as sgl
from sgl_lang import gen

Ask: TypeAlias = Callable[..., str]  # ask(prompt, max_tokens, stop=...) -> text, by way of the OpenAI API

RULES = "You solve puzzles step by step and are brief. " + data.paragraph(1, 40) + "\n"
DOCUMENTS = [data.paragraph(10 + i, 12) for i in range(5)]
SHOTS = "Answer with a letter.\n\n" + data.examples(12)
REACT = "Solve with Thought, Action, Observation.\n\n" + data.react_example() * 2
JUDGE = "Judge the essay fairly. " + data.paragraph(2, 20) + "\n"
DIMENSIONS = ("clarity", "originality", "evidence", "style")
FIELDS = ("name", "house", "wand", "pet", "friend", "job")


# -- tree of thought: propose, solve and evaluate in branches


@sgl.function
def tree_of_thought(s: Any, question: str) -> str:
    s += RULES + f"Question: {question}\n"
    plans = s.fork(3)
    plans += lambda i: (
        f"Plan {i + 1}:" + gen("plan", max_tokens=8) + "\nSolution:" + gen("solution", max_tokens=8)
    )
    values = [plan.fork(2) for plan in plans]
    for branch in values:
        branch += lambda i: f"\nReview {i + 1}: out of 10 this deserves" + gen("value", max_tokens=2)
    best = max(range(3), key=lambda i: sum(len(value["value"]) for value in values[i]))
    return str(plans[best]["solution"])


def plain_tree_of_thought(ask: Ask, question: str) -> str:
    start = RULES + f"Question: {question}\n"

    def branch(i: int) -> tuple[str, int]:
        text = start + f"Plan {i + 1}:"
        text += ask(text, 8) + "\nSolution:"
        solution = ask(text, 8)
        reviews = [text + solution + f"\nReview {n + 1}: out of 10 this deserves" for n in range(2)]
        with ThreadPoolExecutor(2) as pool:
            return solution, sum(len(value) for value in pool.map(lambda review: ask(review, 2), reviews))

    with ThreadPoolExecutor(3) as pool:
        return max(pool.map(branch, range(3)), key=lambda pair: pair[1])[0]


# -- ReAct: a chain that grows, after a long example


@sgl.function
def react(s: Any, question: str) -> None:
    s += REACT + f"Question: {question}\n"
    for i in range(1, 5):
        s += f"Thought {i}:" + gen("thought", max_tokens=8, stop="\n")
        s += f"\nAction {i}: Search[" + gen("search", max_tokens=4, stop="]")
        s += f"]\nObservation {i}: {data.paragraph(len(s['search']), 2)}\n"


def plain_react(ask: Ask, question: str) -> None:
    text = REACT + f"Question: {question}\n"
    for i in range(1, 5):
        text += f"Thought {i}:"
        text += ask(text, 8, stop="\n") + f"\nAction {i}: Search["
        search = ask(text, 4, stop="]")
        text += search + f"]\nObservation {i}: {data.paragraph(len(search), 2)}\n"


# -- multi-document question answering: the same documents for every question


@sgl.function
def multi_document_qa(s: Any, question: str) -> None:
    for number, document in enumerate(DOCUMENTS):
        s += f"Document {number}: {document}\n"
    s += f"Question: {question}\nAnswer:" + gen("answer", max_tokens=8)


def plain_multi_document_qa(ask: Ask, question: str) -> None:
    documents = "".join(f"Document {number}: {document}\n" for number, document in enumerate(DOCUMENTS))
    ask(documents + f"Question: {question}\nAnswer:", 8)


# -- few-shot multiple choice, as in MMLU


@sgl.function
def few_shot(s: Any, question: str) -> None:
    s += SHOTS + question + gen("answer", max_tokens=1)


def plain_few_shot(ask: Ask, question: str) -> None:
    ask(SHOTS + question, 1)


# -- a judge that looks at several sides of an essay


@sgl.function
def llm_judge(s: Any, essay: str) -> None:
    s += JUDGE + f"Essay: {essay}\n"
    forks = s.fork(len(DIMENSIONS))
    forks += [f"Its {side} is" + gen("verdict", max_tokens=8, stop="\n") for side in DIMENSIONS]
    forks.join("concate_and_append")
    s += "In one number from 1 to 10:" + gen("grade", max_tokens=2)


def plain_llm_judge(ask: Ask, essay: str) -> None:
    text = JUDGE + f"Essay: {essay}\n"
    with ThreadPoolExecutor(len(DIMENSIONS)) as pool:
        verdicts = pool.map(
            lambda side: f"Its {side} is" + ask(text + f"Its {side} is", 8, stop="\n"), DIMENSIONS
        )
    ask(text + "".join(verdicts) + "In one number from 1 to 10:", 2)


# -- JSON decoding: the program writes the form, the model the values


@sgl.function
def json_decoding(s: Any, document: str) -> None:
    s += f"Extract the facts.\n{document}\n" + "{"
    for field in FIELDS:
        s += f'"{field}": "' + gen(field, max_tokens=4, stop='"') + '", '


def plain_json_decoding(ask: Ask, document: str) -> None:
    text = f"Extract the facts.\n{document}\n" + "{"
    for field in FIELDS:
        text += f'"{field}": "'
        text += ask(text, 4, stop='"') + '", '


@dataclass(frozen=True)
class Case:
    """A program, its plain twin, and what each run is given."""

    program: sgl.Program
    plain: Callable[[Ask, str], object]
    argument: Callable[[int], str]


CASES: Mapping[str, Case] = MappingProxyType(
    {
        "tree of thought": Case(tree_of_thought, plain_tree_of_thought, lambda i: data.questions(i + 1)[i]),
        "ReAct": Case(react, plain_react, lambda i: data.questions(i + 1)[i]),
        "multi-document QA": Case(
            multi_document_qa, plain_multi_document_qa, lambda i: data.questions(i + 1)[i]
        ),
        "few-shot (MMLU-like)": Case(few_shot, plain_few_shot, data.choices_question),
        "LLM judge": Case(llm_judge, plain_llm_judge, lambda i: data.paragraph(i + 900, 12)),
        "JSON decoding": Case(json_decoding, plain_json_decoding, lambda i: data.paragraph(i + 700, 30)),
    }
)
