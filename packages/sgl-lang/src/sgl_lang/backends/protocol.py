# SPDX-License-Identifier: Apache-2.0
"""`Backend`: what a program needs of whatever generates its text, and the values that pass between the two.

A backend receives values only and cannot reach into the program that runs. What it can do it says as data,
`Capabilities`; what it cannot is refused before it is asked, by the executor, with the same words for all.
All its verbs may be called from several threads at once. What goes wrong is raised: `BackendError` when the
other side would not or could not.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from sgl_lang.chat import ChatTemplate
from sgl_lang.errors import UnsupportedByBackend
from sgl_lang.media import Media
from sgl_lang.sampling import PARAMETERS, SamplingParams
from sgl_lang.transcript import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do. The defaults are those of a server of ours.

    Attributes:
        shape: "text" continues any text with markup in it (`Prompt.text`); "chat" answers a conversation
            (`Prompt.messages`) and nothing else.
        continues_turns: a "chat" backend goes on with a turn of the assistant that has begun. If not, `gen`
            must come first in its turn, unless the program runs with `num_api_spec_tokens`.
        parameters: the fields of `SamplingParams` that are obeyed. Others are refused, unless they are None
            or say what is so anyway (`sampling.NEUTRAL`).
        remedies: for parameters that are not obeyed, what to write instead; added to the refusal.
        images, videos: whether a prompt may hold them.
        scores: what `score` can tell: "logprobs" of every token of each option; "walk", which option the
            model would take, token by token, as log-probabilities 0 (taken) and -inf (left); or None.
        prefix_cache: `warm` makes prompts that begin alike cheaper.
    """

    shape: Literal["text", "chat"] = "text"
    continues_turns: bool = True
    parameters: frozenset[str] = field(default_factory=lambda: frozenset(PARAMETERS))
    remedies: Mapping[str, str] = field(default_factory=dict)
    images: bool = True
    videos: bool = True
    scores: Literal["logprobs", "walk"] | None = "logprobs"
    prefix_cache: bool = True


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to continue, in two forms of the same thing.

    Attributes:
        rid: names this one generation, for `abort`.
        text: everything so far, with its markup; an image or video is the template's `image_token` in it.
        messages: the turns. The last one may be open: a turn of the assistant that the answer continues, with
            the content "" if the answer begins it. A program that writes text without any turns is, for a
            backend of shape "chat", one turn of the user; for one of shape "text", no turn.
        media: the images and videos, in the order of their tokens in `text`.
        name: the variable that receives the answer.
    """

    rid: str
    text: str
    messages: tuple[Message, ...] = ()
    media: tuple[Media, ...] = ()
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What was generated: all of it so far, without the prompt.

    Attributes:
        text: of the first sample.
        meta_info: what the backend reports of it. Where they are known, under these names: "id",
            "prompt_tokens", "cached_tokens" (of those, from a cache), "completion_tokens", "finish_reason"
            ({"type": "stop" | "length" | ...}).
        others: the other samples, if `SamplingParams.n` is more than 1.
    """

    text: str
    meta_info: Mapping[str, Any] = field(default_factory=dict)
    others: tuple[Completion, ...] = ()


@dataclass(frozen=True, slots=True)
class OptionScore:
    """How likely one option is, as natural logarithms; one entry per token, at least one token.

    Attributes:
        logprobs: of each token, given the prompt and the tokens before it. Where the prompt's last characters
            and an option's first ones share a token, these begin at the last token boundary that all options
            agree on, so that they compare the same stretch of text.
        unconditional: of the same tokens without the prompt; the first one is 0 where nothing precedes it.
            None unless it was asked for.
        tokens: their ids, where the backend knows them.
    """

    logprobs: tuple[float, ...]
    unconditional: tuple[float, ...] | None = None
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of several options, in their order, and what the backend reports of it all."""

    options: tuple[OptionScore, ...]
    meta_info: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """Something that continues text. A class that inherits from this need not repeat what it cannot do."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do. Known without asking the other side."""
        return Capabilities(scores=None, prefix_cache=False)

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

    def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> Scores:
        """How likely each option (at least one; any may be "") is as the next words, as `capabilities.scores`
        says; `unconditional` is asked of "logprobs" only.
        """
        raise UnsupportedByBackend(f"{type(self).__name__} cannot score options")

    def warm(self, prompt: Prompt) -> None:
        """Compute the prompt, so that others that begin with it cost less. A hint: nothing may change."""

    def abort(self, rid: str) -> None:
        """Give up a generation that another thread waits for: its call returns or raises soon.

        Never raises, and takes a second at most; what is unknown or over is left alone.
        """


@runtime_checkable
class Server(Protocol):
    """A backend with a server of ours behind it."""

    def flush_cache(self) -> None:
        """Empty the server's prefix cache."""
        ...

    def get_server_args(self) -> dict[str, Any]:
        """The arguments with which the server was started."""
        ...
