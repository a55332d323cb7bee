# SPDX-License-Identifier: Apache-2.0
"""What a program asks of a backend: refused here when the backend cannot do it, else made into a `Prompt`.

All refusals are in this file, so that they read alike for all backends; none of them sends a request.
"""

from __future__ import annotations

import os
from dataclasses import replace

from sgl_lang.backends.protocol import Backend, Capabilities, Prompt
from sgl_lang.choices import (
    ChoicesMethod,
    GreedyTokenSelection,
    greedy_token_selection,
    token_length_normalized,
)
from sgl_lang.errors import UnsupportedByBackend
from sgl_lang.ir import Gen, Part, Select, Show
from sgl_lang.media import Image
from sgl_lang.sampling import CONSTRAINTS, PARAMETERS, SamplingParams, merge
from sgl_lang.transcript import Message, Transcript

_ALL = frozenset(PARAMETERS)
_SPELLED = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}  # as in gen()
_OURS = 'a server of sgl-runtime does: RuntimeEndpoint("http://localhost:30000")'


def resolve(part: Part, defaults: SamplingParams, backend: Backend, can: Capabilities) -> Part:
    """The part as it will be carried out, with all its parameters. UnsupportedByBackend if it cannot be."""
    who = type(backend).__name__
    match part:
        case Gen(name, params):
            merged = merge(defaults, params)
            if can.parameters < _ALL and (wrong := merged.asked().keys() - can.parameters):
                raise UnsupportedByBackend(_refusal(who, min(wrong), can))
            return Gen(name, merged)
        case Select(name, choices, method):
            return Select(name, choices, _method(who, method, can))
        case Show(media):
            what, able = ("images", can.images) if isinstance(media, Image) else ("videos", can.videos)
            if not able:
                instead = (
                    "; show some of its pictures with image()" if what == "videos" and can.images else ""
                )
                raise UnsupportedByBackend(f"{who} takes no {what}{instead}")
    return part


def prompt_of(
    transcript: Transcript, name: str | None, backend: Backend, can: Capabilities, *, whole_turn: bool = False
) -> Prompt:
    """What to continue; with `whole_turn`, with the open turn as if it had not begun.

    UnsupportedByBackend if the backend answers conversations and this is none.
    """
    if whole_turn:
        transcript = replace(transcript, text=transcript.text[: transcript.start], shown=())
    return Prompt(
        rid=os.urandom(16).hex(),
        text=transcript.text,
        messages=transcript.messages if can.shape == "text" else _conversation(transcript, backend, can),
        media=transcript.media,
        name=name,
    )


def _conversation(transcript: Transcript, backend: Backend, can: Capabilities) -> tuple[Message, ...]:
    who = type(backend).__name__
    messages = transcript.messages
    if transcript.role is None and not messages:
        return (Message("user", transcript.content),)
    if transcript.role != "assistant":
        raise UnsupportedByBackend(
            f"{who} answers with turns of the assistant: write assistant(gen(...)), or drop all roles"
        )
    if transcript.stray:
        raise UnsupportedByBackend(
            f"{who} takes a conversation, and part of this text stands outside of its turns: give it a role"
        )
    if messages[-1].content and not can.continues_turns:
        raise UnsupportedByBackend(
            f"{who} does not continue a turn that has begun: let gen() come first in its turn, or run the"
            " program as @function(num_api_spec_tokens=...)"
        )
    return messages


def _refusal(who: str, field: str, can: Capabilities) -> str:
    if (remedy := can.remedies.get(field)) is None:
        others = [name for name in CONSTRAINTS if name in can.parameters and field in CONSTRAINTS]
        remedy = f"it takes {' and '.join(others)}" if others else _OURS
    return f"{who} does not obey {_SPELLED.get(field, field)}; {remedy}"


def _method(who: str, method: ChoicesMethod | None, can: Capabilities) -> ChoicesMethod:
    if can.scores == "logprobs":
        return token_length_normalized if method is None else method
    if can.scores is None:
        raise UnsupportedByBackend(f"{who} cannot tell how likely choices are; {_OURS}")
    if method is not None and not isinstance(method, GreedyTokenSelection):
        raise UnsupportedByBackend(f"{who} can choose token by token only: greedy_token_selection; {_OURS}")
    return greedy_token_selection
