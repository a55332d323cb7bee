# SPDX-License-Identifier: Apache-2.0
"""`Backend`: what a program needs of whatever generates its text, and the values that pass between the two.

A backend receives values only and cannot reach into the program that runs. All its verbs may be called from
several threads at once. What goes wrong is raised; `BackendError` when the other side would not or could not.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from sgl_lang.chat import ChatTemplate
from sgl_lang.sampling import SamplingParams
from sgl_lang.transcript import Message


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to continue: as text with its markup, and as turns, of which the last may be open."""

    rid: str  # names this one generation, for `abort`
    text: str
    messages: tuple[Message, ...] = ()
    name: str | None = None  # the variable that receives the answer


@dataclass(frozen=True, slots=True)
class Completion:
    """What was generated: all of it so far, without the prompt."""

    text: str
    meta_info: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """Something that continues text."""

    @property
    def chat_template(self) -> ChatTemplate:
        """The markup of this backend's model. May ask the other side, once."""
        ...

    def generate(self, prompt: Prompt, params: SamplingParams) -> Completion:
        """The whole answer."""
        ...

    def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
        """The answer as it grows; each completion holds all of it so far.

        Closing the generator gives the rest up.
        """
        ...

    def abort(self, rid: str) -> None:
        """Give up a generation that another thread waits for: its call returns or raises soon.

        Never raises, and takes a second at most; what is unknown or over is left alone.
        """
        ...


@runtime_checkable
class Server(Protocol):
    """A backend with a server of ours behind it."""

    def flush_cache(self) -> None:
        """Empty the server's prefix cache."""
        ...

    def get_server_args(self) -> dict[str, Any]:
        """The arguments with which the server was started."""
        ...
