# SPDX-License-Identifier: Apache-2.0
"""`Scripted`: a backend whose answers are written beforehand, to test programs and to show them.

It knows no model and takes the answers as they are: sampling parameters are recorded, not obeyed.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from sgl_lang.backends.protocol import Backend, Completion, Prompt
from sgl_lang.chat import ChatTemplate, named_template
from sgl_lang.errors import BackendError
from sgl_lang.sampling import SamplingParams

Answer: TypeAlias = str | Exception


class Call(NamedTuple):
    """One generation that was asked of a `Scripted`."""

    prompt: Prompt
    params: SamplingParams


class Scripted(Backend):
    """A backend that answers `gen("name")` with `answers["name"]`.

    A sequence of answers is used up in order, one per generation. An exception among the answers is raised. A
    variable without an answer, or with none left, is a BackendError. `gen()` without a name is answered with
    `answers[""]`. Streaming gives an answer word by word.

    Attributes:
        calls: what was asked, in the order it arrived.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer | Sequence[Answer]],
        *,
        chat_template: str | ChatTemplate = "chatml",
    ) -> None:
        self.calls: list[Call] = []
        self._template = named_template(chat_template) if isinstance(chat_template, str) else chat_template
        self._answers = dict(answers)
        self._used: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def chat_template(self) -> ChatTemplate:
        return self._template

    def generate(self, prompt: Prompt, params: SamplingParams) -> Completion:
        return _completion(prompt, self._answer(prompt, params))

    def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
        answer = self._answer(prompt, params)
        for word in re.finditer(r"\s*\S+|\s+$", answer):
            yield _completion(prompt, answer[: word.end()])

    def _answer(self, prompt: Prompt, params: SamplingParams) -> str:
        name = prompt.name or ""
        with self._lock:
            self.calls.append(Call(prompt, params))
            turn = self._used[name] = self._used.get(name, 0) + 1
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


def _completion(prompt: Prompt, text: str) -> Completion:
    return Completion(text=text, meta_info={"id": prompt.rid})
