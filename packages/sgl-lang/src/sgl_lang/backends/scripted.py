# SPDX-License-Identifier: Apache-2.0
"""`Scripted`: a backend whose answers are written beforehand, to test programs and to show them.

It knows no model and takes the answers as they are: sampling parameters are recorded, not obeyed.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sgl_lang.backends.protocol import (
    Backend,
    Capabilities,
    Completion,
    OptionScore,
    Prompt,
    Scores,
)
from sgl_lang.chat import ChatTemplate, named_template
from sgl_lang.errors import BackendError
from sgl_lang.sampling import SamplingParams

Answer: TypeAlias = str | Exception
Answers: TypeAlias = Mapping[str, Answer | Sequence[Answer]] | Callable[[Prompt, SamplingParams], str]


@dataclass(frozen=True, slots=True)
class Call:
    """One thing that was asked of a `Scripted`: a generation, or, with `options`, a choice."""

    prompt: Prompt
    params: SamplingParams
    options: tuple[str, ...] = ()


class Scripted(Backend):
    """A backend that answers `gen("name")` with `answers["name"]`.

    A sequence of answers is used up in order, one per generation. An exception among the answers is raised. A
    variable without an answer, or with none left, is a BackendError. `gen()` without a name is answered with
    `answers[""]`. Streaming gives an answer word by word. `select("name", ...)` finds the answer more likely
    than the other choices; it must be one of them. With `gen(n=3)` three answers are used.

    Args:
        answers: as above, or a function of the prompt and the sampling parameters.
        chat_template: the markup of the model there is not.
        capabilities: what the backend says it can do, to see what becomes of a program elsewhere.

    Attributes:
        calls: what was asked, in the order it arrived.
        warmed: the prompts that were to be computed beforehand.
    """

    def __init__(
        self,
        answers: Answers,
        *,
        chat_template: str | ChatTemplate = "chatml",
        capabilities: Capabilities | None = None,
    ) -> None:
        self.calls: list[Call] = []
        self.warmed: list[Prompt] = []
        self._capabilities = Capabilities() if capabilities is None else capabilities
        self._template = named_template(chat_template) if isinstance(chat_template, str) else chat_template
        self._answers = answers if callable(answers) else dict(answers)
        self._used: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def chat_template(self) -> ChatTemplate:
        return self._template

    def generate(self, prompt: Prompt, params: SamplingParams) -> Completion:
        first, *others = (self._answer(Call(prompt, params)) for _ in range(params.n or 1))
        return _completion(prompt, first, *others)

    def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
        first, *others = (self._answer(Call(prompt, params)) for _ in range(params.n or 1))
        for word in re.finditer(r"\s*\S+|\s+$", first):
            yield _completion(prompt, first[: word.end()], *others)

    def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> Scores:
        answer = self._answer(Call(prompt, SamplingParams(), tuple(options)))
        if answer not in options:
            raise BackendError(f"Scripted answers {prompt.name!r} with {answer!r}, which is no choice")
        alone = (0.0,) if unconditional else None
        told = {"id": prompt.rid}
        return Scores(tuple(OptionScore((0.0 if o == answer else -1.0,), alone) for o in options), told)

    def warm(self, prompt: Prompt) -> None:
        with self._lock:
            self.warmed.append(prompt)

    def _answer(self, call: Call) -> str:
        name = call.prompt.name or ""
        with self._lock:
            self.calls.append(call)
            turn = self._used[name] = self._used.get(name, 0) + 1
        if callable(self._answers):
            return self._answers(call.prompt, call.params)
        answers = self._answers.get(name, ())
        if isinstance(answers, str | Exception):
            answer = answers
        elif turn <= len(answers):
            answer = answers[turn - 1]
        else:
            raise BackendError(f"Scripted has no answer for generation {turn} of {name!r}")
        if isinstance(answer, Exception):
            raise copy.copy(answer)
        return answer


def _completion(prompt: Prompt, text: str, *others: str) -> Completion:
    told = {"id": prompt.rid}
    return Completion(text, told, tuple(Completion(other, told) for other in others))
