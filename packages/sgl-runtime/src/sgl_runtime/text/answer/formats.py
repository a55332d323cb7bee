# SPDX-License-Identifier: Apache-2.0
"""`CallFormat`: how a model writes calls of tools, and which format a chat template speaks.

A template tells by itself: it is shown a conversation with a call in it, and whoever finds that call in what
the template writes is its format.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, Protocol

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.text.answer import hermes, llama, mistral, pythonic
from sgl_runtime.text.answer.pieces import Call, Reading
from sgl_runtime.text.answer.source import Reader, Source
from sgl_runtime.text.answer.structure import Format, Tools
from sgl_runtime.text.chat import ChatTemplate

_SHORT = 9
_PROBE: Final = "sentinel_function"
_PROBE_TOOL: Final = {
    "type": "function",
    "function": {
        "name": _PROBE,
        "description": "Sentinel",
        "parameters": {"type": "object", "properties": {"sentinel": {"type": "string"}}},
    },
}
_PROBE_CALL: Final = {
    "id": "sentinel1",
    "type": "function",
    "function": {"name": _PROBE, "arguments": {"sentinel": "value"}},
}


class _Structure(Protocol):
    def __call__(self, tools: Tools, *, free: bool, many: bool) -> Format:
        """The texts with calls of these tools. free: calls are possible, in a text, else they are all there
        is. many: more than one call is possible.
        """


class CallFormat(NamedTuple):
    """shown: texts by which calls are found, which must be seen even where they are special tokens.
    short_ids: its templates take ids of calls of nine letters and digits only.
    opening: what comes before the first call, often a special token: where calls are all that may be
    answered, the prompt ends with it, as no grammar can write special tokens.
    """

    read: Callable[[Source, AbstractSet[str]], Reading]
    write: Callable[[Sequence[tuple[str, Mapping[str, Any]]]], str]
    structure: _Structure
    shown: tuple[str, ...]
    short_ids: bool = False
    opening: str = ""
    any_object: bool = True


_MISTRAL_SHOWN = (mistral.BEGIN, mistral.ID, mistral.ARGUMENTS)
FORMATS: Final[dict[str, CallFormat]] = {
    "hermes": CallFormat(hermes.read, hermes.write, hermes.structure, (hermes.BEGIN, hermes.END)),
    "mistral": CallFormat(
        mistral.read, mistral.write, mistral.structure, _MISTRAL_SHOWN, True, mistral.BEGIN
    ),
    "mistral-named": CallFormat(
        mistral.read, mistral.write_named, mistral.structure_named, _MISTRAL_SHOWN, True, mistral.BEGIN
    ),
    "llama3": CallFormat(llama.read, llama.write, llama.structure, (llama.TAG,)),
    "pythonic": CallFormat(
        pythonic.read, pythonic.write, pythonic.structure, (pythonic.START, pythonic.END), any_object=False
    ),
}


def find_format(template: ChatTemplate) -> str | None:
    """The format in which the template writes a call of the assistant's; None if it writes none of ours."""
    written = _written_call(template)
    if written is None:
        return None
    for name, format in FORMATS.items():
        if name == "mistral" and mistral.ARGUMENTS in written:
            continue
        reader = Reader(lambda source, read=format.read: read(source, {_PROBE}))  # type: ignore[misc]
        if Call(_PROBE) in [*reader.push(written), *reader.finish()]:
            return name
    return None


def shows_tools(template: ChatTemplate) -> bool:
    """Does the template put the tools it is given into a prompt?"""
    return _PROBE in (_rendered(template, [{"role": "user", "content": "Question"}]) or "")


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def short_id(id: str) -> str:
    """Nine letters and digits for any id, always the same ones."""
    if len(id) == _SHORT and id.isascii() and id.isalnum():
        return id
    return hashlib.sha256(id.encode()).hexdigest()[:_SHORT]


def _written_call(template: ChatTemplate) -> str | None:
    """What the template writes for an assistant's turn that is one call."""
    question = {"role": "user", "content": "Question"}
    asked = _rendered(template, [question])
    for content in ("", None):
        call = {"role": "assistant", "content": content, "tool_calls": [_PROBE_CALL]}
        answered = _rendered(template, [question, call], ask=False)
        if asked is not None and answered is not None:
            return answered.removeprefix(asked)
    return None


def _rendered(template: ChatTemplate, messages: list[dict[str, Any]], *, ask: bool = True) -> str | None:
    try:
        return template.render(messages, add_generation_prompt=ask, tools=[_PROBE_TOOL])
    except InvalidRequest:
        return None
