# SPDX-License-Identifier: Apache-2.0
"""`Dialect`: how one model writes what is not plain text: as its chat template shows, or as the server was
told.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias

from sgl_runtime.text.answer.formats import FORMATS, CallFormat, find_format, shows_tools
from sgl_runtime.text.answer.pieces import Reading, Text, tidied
from sgl_runtime.text.answer.source import Reader, Source
from sgl_runtime.text.answer.thinking import MARKS, Marks, find_marks, read_reasoning
from sgl_runtime.text.chat import ChatTemplate
from sgl_runtime.text.tokenizer import Tokenizer

ReasoningState: TypeAlias = Literal["none", "possible", "open"]

_ALIASES: Final = {"qwen25": "hermes", "llama3_json": "llama3"}
DEFAULT_FORMAT: Final = "hermes"  # of templates that write no calls: the most widely trained


@dataclass(frozen=True)
class Dialect:
    """format: None if calls are not looked for. marks: None if reasoning is not. in_template: the template
    itself tells the model about tools.
    """

    format: CallFormat | None
    marks: Marks | None
    in_template: bool
    shown: frozenset[int]  # special tokens without which calls and reasoning would not be found

    def reasoning_after(self, prompt: str) -> ReasoningState:
        """What the prompt leaves open: the reasoning itself ("open"), whether there will be any
        ("possible"), or nothing.
        """
        if self.marks is None:
            return "none"
        prompt = prompt.rstrip()
        if prompt.endswith(self.marks.end):
            return "none"
        return "open" if self.marks.always or prompt.endswith(self.marks.begin) else "possible"

    def reader(self, tools: frozenset[str], *, reasoning: bool, opened: bool, begun: str) -> Reader:
        """For one answer. tools: names of those that may be called. reasoning: split it off; opened: the
        prompt has begun it. begun: what of the answer is in the prompt, none of it text.
        """
        reader = Reader(partial(self._read, tools, reasoning, opened))
        pieces = reader.push(begun)
        assert not pieces, "a part of the answer would be lost"
        return reader

    def _read(self, tools: frozenset[str], reasoning: bool, opened: bool, source: Source) -> Reading:
        return tidied(self._read_all(source, tools, reasoning, opened))

    def _read_all(self, source: Source, tools: frozenset[str], reasoning: bool, opened: bool) -> Reading:
        if reasoning and self.marks is not None:
            yield from read_reasoning(source, self.marks, opened=opened)
        if tools and self.format is not None:
            yield from self.format.read(source, tools)
        else:
            yield from source.rest(Text)


def load_dialect(
    template: ChatTemplate, tokenizer: Tokenizer, *, calls: str | None, reasoning: str | None
) -> Dialect:
    """`calls` and `reasoning` are --tool-call-parser and --reasoning-parser: None for what the template
    shows, "none" for nothing.
    """
    name = calls or find_format(template) or DEFAULT_FORMAT
    format = None if name == "none" else FORMATS[_ALIASES.get(name, name)]
    marks = find_marks(template.source) if reasoning is None else MARKS.get(reasoning)
    texts = [*(format.shown if format else ()), *((marks.begin, marks.end) if marks else ())]
    tokens = {tokenizer.token_id(text) for text in texts}
    return Dialect(
        format=format,
        marks=marks,
        in_template=shows_tools(template),
        shown=frozenset(token for token in tokens if token is not None and token in tokenizer.special),
    )
