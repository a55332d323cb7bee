# SPDX-License-Identifier: Apache-2.0
"""What a chat template writes before and after each role's content, found by rendering words and looking
around them.

With these a client builds a prompt turn by turn without knowing the template. A template that does more than
put turns one after another has no markers: what is found is checked on whole conversations before it is
believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

# A conversation and whether to ask for an answer; None: the template refuses it.
Render: TypeAlias = Callable[[Sequence[Mapping[str, str]], bool], str | None]

# Contents with what templates tend to touch; not with outer white space, which many trim.
_SYSTEM, _CONTENTS = "Sentinel of\n\nthe system", tuple(f"Sentinel {n}\n of a 轮次" for n in range(4))


class Markers(NamedTuple):
    """A turn is begin + content + end, with (begin, end) by role; a prompt for an answer ends with
    the assistant's begin."""

    roles: dict[str, tuple[str, str]]  # "system" only if the template takes system messages
    default_system: str | None  # the system content of a conversation that gives none


def find_markers(render: Render) -> Markers | None:
    """The markers of a template, or None if its prompts are not turns in a row."""
    user, answered = _around(render, 1), _around(render, 2)
    again, asked = _around(render, 3), _around(render, 1, ask=True)
    if user is None or answered is None or again is None or asked is None:
        return None
    user_end, assistant_end = user[1], answered[2]
    assistant_begin = _after(asked[1], user_end)
    user_begin = _after(again[2], assistant_end)
    if assistant_begin is None or user_begin is None or not user[0].endswith(user_begin):
        return None
    roles = {"user": (user_begin, user_end), "assistant": (assistant_begin, assistant_end)}
    default = None
    lead = user[0].removesuffix(user_begin)  # what opens a conversation without a system message
    with_system = _around(render, 1, system=True)
    if with_system is not None and with_system[1].endswith(user_begin):
        begin, end = roles["system"] = with_system[0], with_system[1].removesuffix(user_begin)
        if lead and lead.startswith(begin) and lead.endswith(end):
            default = lead[len(begin) : len(lead) - len(end)]
    markers = Markers(roles, default)
    return markers if _holds(render, markers) else None


def _after(text: str, prefix: str) -> str | None:
    return text[len(prefix) :] if text.startswith(prefix) else None


def _conversation(turns: int, system: bool) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": _SYSTEM}] if system else []
    roles = ("user", "assistant")
    return messages + [{"role": roles[n % 2], "content": _CONTENTS[n]} for n in range(turns)]


def _around(render: Render, turns: int, *, ask: bool = False, system: bool = False) -> list[str] | None:
    """The texts before, between and after the contents; None unless these stand there once each, in order."""
    messages = _conversation(turns, system)
    rest = render(messages, ask)
    if rest is None:
        return None
    texts = []
    for message in messages:
        text, found, rest = rest.partition(message["content"])
        if not found or message["content"] in rest:
            return None
        texts.append(text)
    return [*texts, rest]


def _holds(render: Render, markers: Markers) -> bool:
    """Do the markers build what the template renders?"""
    cases = [
        (turns, ask, system)
        for turns in range(1, len(_CONTENTS) + 1)
        for ask in (False, True)
        for system in (False, True)
        # After an assistant's turn nobody asks for an answer.
        if not (ask and turns % 2 == 0) and (not system or "system" in markers.roles)
    ]
    for turns, ask, system in cases:
        messages = _conversation(turns, system)
        if not system and markers.default_system is not None:
            messages.insert(0, {"role": "system", "content": markers.default_system})
        built = "".join(
            begin + message["content"] + end
            for message in messages
            for begin, end in [markers.roles[message["role"]]]
        )
        built += markers.roles["assistant"][0] if ask else ""
        if built != render(_conversation(turns, system), ask):
            return False
    return True
