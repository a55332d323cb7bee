# SPDX-License-Identifier: Apache-2.0
"""`Vendor`: what the backends of all vendors' APIs have in common.

A vendor's file says how a prompt becomes a request (`_ask`), and how an answer, whole or in pieces, is read
(`_whole`, `_pieces`). Here is the rest: when to stream, what is shown of a growing answer, who closes what.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from sgl_lang.backends._answer import Answer, Lost, Refusal, failure_of
from sgl_lang.backends._calls import Calls
from sgl_lang.backends._failure import Failure
from sgl_lang.backends.protocol import Backend, Capabilities, Completion, Prompt
from sgl_lang.chat import ChatTemplate
from sgl_lang.sampling import SamplingParams
from sgl_lang.usage import Usage


@dataclass(frozen=True, slots=True)
class Ask:
    """A request in the vendor's words, and what the vendor is not told: see `Answer`."""

    fields: Mapping[str, Any]
    stops: tuple[str, ...] = ()
    lead: str = ""


class Vendor(Backend):
    """A backend on somebody's API."""

    def __init__(
        self,
        name: str,
        *,
        capabilities: Capabilities,
        chat_template: ChatTemplate,
        errors: tuple[type[Exception], ...],
        goodbye: Callable[[], Awaitable[None]],
        secrets: tuple[str, ...],
        max_retries: int,
        max_wait: float,
    ) -> None:
        self._usage = Usage()
        self._usage_lock = threading.Lock()
        self._capabilities = capabilities
        self._template = chat_template
        self._calls = Calls(
            name,
            errors=(Refusal, Lost, *errors),
            failure=lambda error: (
                failure_of(error) if isinstance(error, Refusal | Lost) else self._failure(error)
            ),
            goodbye=goodbye,
            secrets=secrets,
            max_retries=max_retries,
            max_wait=max_wait,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def chat_template(self) -> ChatTemplate:
        return self._template

    @property
    def token_usage(self) -> Usage:
        """Tokens of all answers so far: what the vendor reports, whichever program asked."""
        return self._usage

    def generate(self, prompt: Prompt, params: SamplingParams) -> Completion:
        ask = self._ask(prompt, params)

        async def call() -> Completion:
            answer = _answer(prompt, params, ask)
            if ask.stops:  # streamed, so that the vendor can be told to stop where a stop string stands
                async for _ in self._grow(ask, answer):
                    pass
            else:
                await self._whole(ask, answer)
            self._count(answer.counts)
            return answer.whole()

        return self._calls.whole(prompt.rid, call)

    def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
        ask = self._ask(prompt, params)

        async def call() -> AsyncIterator[Completion]:
            answer = _answer(prompt, params, ask)
            shown = answer.growing
            async with aclosing(self._grow(ask, answer)) as pieces:
                async for _ in pieces:
                    grown = answer.growing
                    if _texts(grown) != _texts(shown):
                        yield (shown := grown)
            self._count(answer.counts)
            yield answer.whole()

        return self._calls.stream(prompt.rid, call)

    async def _grow(self, ask: Ask, answer: Answer) -> AsyncGenerator[None, None]:
        """The pieces of a stream, until the rest is not wanted."""
        async with aclosing(self._pieces(ask, answer)) as pieces:
            async for _ in pieces:
                yield
                if answer.cut:
                    return

    def _count(self, counts: Mapping[str, int | None]) -> None:
        with self._usage_lock:
            self._usage = self._usage.plus(counts)

    def abort(self, rid: str) -> None:
        self._calls.abort(rid)

    def close(self) -> None:
        """Give up what is under way and close the connections. The backend cannot be used any more."""
        self._calls.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- what a vendor's file says

    @abstractmethod
    def _ask(self, prompt: Prompt, params: SamplingParams) -> Ask:
        """The request. Raises UnsupportedByBackend for what the vendor cannot do."""

    @abstractmethod
    async def _whole(self, ask: Ask, answer: Answer) -> None:
        """Ask for the whole answer, and put it into `answer`."""

    @abstractmethod
    def _pieces(self, ask: Ask, answer: Answer) -> AsyncGenerator[None, None]:
        """Ask for a stream, and put it into `answer` piece by piece; yields after each."""

    @abstractmethod
    def _failure(self, error: Exception) -> Failure:
        """What an exception of the vendor's client means."""


def _answer(prompt: Prompt, params: SamplingParams, ask: Ask) -> Answer:
    return Answer(prompt.rid, n=params.n or 1, stops=ask.stops, lead=ask.lead)


def _texts(completion: Completion) -> tuple[str, ...]:
    return (completion.text, *(other.text for other in completion.others))
