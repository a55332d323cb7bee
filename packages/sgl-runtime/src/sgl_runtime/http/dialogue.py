# SPDX-License-Identifier: Apache-2.0
"""`Dialogue`: a conversation with tools, as all chat protocols mean it -> a prompt, a grammar, and a reader.

Each protocol has its own words for messages, tools and the choice among them; here they have become the same.
Knows the model's dialect and its template, but no protocol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

import msgspec
from sgl_constrain.errors import ConstrainError
from sgl_constrain.structural import structural_tag

from sgl_runtime.engine.prepare import Ask
from sgl_runtime.engine.sampling import SamplingBody, Spell
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.messages import Constraint, LogprobSpec
from sgl_runtime.text.answer.dialect import Dialect, ReasoningState
from sgl_runtime.text.answer.formats import CallFormat, short_id
from sgl_runtime.text.answer.plain import text_of, without_tools
from sgl_runtime.text.answer.source import Reader
from sgl_runtime.text.answer.structure import Format, after_reasoning, either, in_sequence, json_value, text
from sgl_runtime.text.chat import ChatTemplate

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,128}")
_RESERVED = ("messages", "tools", "add_generation_prompt")
_CONSTRAINTS: Final = ("regex", "json_schema", "ebnf")


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """parameters: the schema of an object. strict: the model's arguments must be valid."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        given = self.parameters or {}
        return given if "type" in given else {"type": "object", **given}

    def as_openai(self) -> dict[str, Any]:
        """For templates, all of which expect OpenAI's form."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": {**function, "parameters": self.schema}}


class Dialogue(msgspec.Struct, frozen=True, kw_only=True):
    """`messages` as OpenAI has them, with texts as contents, the arguments of calls as objects."""

    messages: list[dict[str, Any]]
    tools: Sequence[Tool] = ()
    choice: Literal["auto", "none", "required"] = "auto"
    allowed: frozenset[str] | None = None  # of the tools, those that may be called; None: all
    parallel: bool = True  # more than one call in an answer
    continues: bool = False  # the last message, the assistant's, is the beginning of the answer
    reasoning: bool = True  # split it off
    variables: Mapping[str, Any] = {}  # more of them, for the template

    @property
    def callable(self) -> list[Tool]:
        """The tools that this answer may call."""
        if self.choice == "none":
            return []
        return [tool for tool in self.tools if self.allowed is None or tool.name in self.allowed]


class Composed(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialogue asks of the engine."""

    prompt: str
    sampling: SamplingBody
    spell: Spell  # the fields of `sampling`, also those that are made of others
    shown: frozenset[int]  # special tokens that the reader must see
    reader: Callable[[], Reader] | None  # None: the answer is text and nothing else

    def ask(self, id: str, source: str, logprobs: LogprobSpec | None = None) -> Ask:
        """`source`: the field that the prompt is made of."""
        return Ask(
            prompt=self.prompt,
            source=source,
            sampling=self.sampling,
            spell=self.spell,
            id=id,
            rid=id,
            default_length=None,
            add_special=False,
            logprobs=logprobs,
            shown=self.shown,
        )


async def compose(api: Api, dialogue: Dialogue, sampling: SamplingBody, spell: Spell) -> Composed:
    """`spell`: how the protocol writes the fields of `sampling`. Raises InvalidRequest for tools or
    variables that cannot be, and for what the template refuses.
    """
    template, dialect = template_of(api), api.dialect
    assert dialect is not None, "where there is a template"
    _check_tools(dialogue, dialect)
    _check_variables(dialogue)
    prompt = _prompt(template, dialect, dialogue)
    state = "none" if dialogue.continues else dialect.reasoning_after(prompt)
    begun, calls = "", None
    if dialect.format is not None:
        if state == "none" and dialogue.choice == "required":
            begun = dialect.format.opening
        calls = await _calls(api, dialect.format, dialogue, opened=bool(begun))
    sampling, made_of = _constrained(dialect, calls, sampling, state, spell)
    sampling = msgspec.structs.replace(sampling, stop=_stops(api, template, sampling.stop))
    names = frozenset(tool.name for tool in dialogue.callable)
    splits = dialogue.reasoning and state != "none"
    reads = bool(names) or splits
    return Composed(
        prompt=prompt + begun,
        sampling=sampling,
        spell=lambda field: made_of if field == "ebnf" and made_of is not None else spell(field),
        shown=dialect.shown if reads else frozenset(),
        reader=(
            partial(dialect.reader, names, reasoning=splits, opened=state == "open", begun=begun)
            if reads
            else None
        ),
    )


def template_of(api: Api) -> ChatTemplate:
    """Raises InvalidRequest if the model has none."""
    if api.chat_template is None:
        raise InvalidRequest(
            "messages: the model brings no chat template; start the server with --chat-template, or use"
            " /v1/completions",
            param="messages",
        )
    return api.chat_template


def effort(api: Api, given: str | None) -> dict[str, Any]:
    """How much to reason, as variables of the template. Raises InvalidRequest for what it has no setting
    for.
    """
    template = template_of(api)
    reasons = api.dialect is not None and api.dialect.marks is not None
    if given is None or (given == "none" and not reasons):
        return {}
    if given == "none" and "enable_thinking" in template.source:
        return {"enable_thinking": False}
    if "reasoning_effort" in template.source:
        return {"reasoning_effort": given}
    raise InvalidRequest(
        f"reasoning_effort: this model's chat template has no setting for {given!r}; leave the field out",
        param="reasoning_effort",
    )


def _check_tools(dialogue: Dialogue, dialect: Dialect) -> None:
    names = [tool.name for tool in dialogue.tools]
    if names and dialect.format is None:
        raise InvalidRequest(
            "tools: this server reads no calls (--tool-call-parser none); leave the field out", param="tools"
        )
    for tool in dialogue.tools:
        if not _NAME.fullmatch(tool.name):
            raise InvalidRequest(
                f"tools: {tool.name[:130]!r} is no name: 1 to 128 letters, digits, '_', '-' and '.'",
                param="tools",
            )
        if names.count(tool.name) > 1:
            raise InvalidRequest(f"tools: there are several of the name {tool.name!r}", param="tools")
        if tool.schema["type"] != "object":
            raise InvalidRequest(
                f"tools: the parameters of {tool.name!r} must be the schema of an object", param="tools"
            )
    if not names and (dialogue.choice == "required" or dialogue.allowed is not None):
        raise InvalidRequest("tool_choice: there are no tools to choose from", param="tool_choice")
    for name in dialogue.allowed or ():
        if name not in names:
            raise InvalidRequest(f"tool_choice: there is no tool {name!r} in tools", param="tool_choice")


def _check_variables(dialogue: Dialogue) -> None:
    for name in _RESERVED:
        if name in dialogue.variables:
            raise InvalidRequest(
                f"chat_template_kwargs: {name!r} is a field of its own", param="chat_template_kwargs"
            )


def _prompt(template: ChatTemplate, dialect: Dialect, dialogue: Dialogue) -> str:
    # What cannot be called this time is not shown either, unless some of it can.
    tools = [tool.as_openai() for tool in dialogue.tools] if dialogue.callable else []
    messages = dialogue.messages
    if dialect.format is not None and not dialect.in_template:
        try:
            messages, tools = without_tools(messages, tools, dialect.format), []
        except RecursionError:
            raise InvalidRequest(
                "messages: the tools, or the arguments of a call, are nested too deeply", param="messages"
            ) from None
    elif dialect.format is not None and dialect.format.short_ids:
        messages = [_with_short_ids(message) for message in messages]
    ask = not dialogue.continues
    prompt = template.render(messages, add_generation_prompt=ask, tools=tools or None, **dialogue.variables)
    return _up_to(messages[-1]["content"], prompt) if dialogue.continues else prompt


def _up_to(content: Any, prompt: str) -> str:
    """The prompt without what the template puts behind the last content."""
    text = text_of(content).strip()
    before, found, _ = prompt.rpartition(text) if text else ("", "", "")
    if not found:
        raise InvalidRequest(
            "messages: the last one cannot be continued: it has no text, or the template does not show it",
            param="messages",
        )
    return before + text


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    changed = dict(message)
    if "tool_call_id" in message:
        changed["tool_call_id"] = short_id(message["tool_call_id"])
    if "tool_calls" in message:
        changed["tool_calls"] = [{**call, "id": short_id(call["id"])} for call in message["tool_calls"]]
    return changed


def _stops(api: Api, template: ChatTemplate, given: str | list[str] | None) -> list[str]:
    """The stop strings of the request and of the template, but for what ends any text of this model."""
    assert api.tokenizer is not None, "who has a template has a tokenizer"
    stops = [given] if isinstance(given, str) else given or []
    vocabulary = api.tokenizer.vocabulary
    ends = {vocabulary[token].decode(errors="replace") for token in api.model.eos}
    return [*stops, *(stop for stop in template.stop if stop not in ends)]


# -- grammars -----------------------------------------------------------------------------------------------


def _constrained(
    dialect: Dialect, calls: Format | None, sampling: SamplingBody, state: ReasoningState, spell: Spell
) -> tuple[SamplingBody, str | None]:
    """The parameters with the grammar of the calls, or with their own constraint moved behind the reasoning;
    and of which field the grammar was made.
    """
    field = next((field for field in _CONSTRAINTS if getattr(sampling, field) is not None), None)
    answer = calls
    if answer is not None and field is not None:
        raise InvalidRequest(
            f"{spell(field)}: the tools of this request decide the form of its answer; give either",
            param=spell(field),
        )
    made_of = "tools"
    if answer is None:
        if field is None or state == "none":
            return sampling, None
        made_of = spell(field)
        answer = _given(sampling, field, state, made_of)
        if answer is None:
            return sampling, None
    if dialect.marks is not None and state != "none":
        begin, end, _ = dialect.marks
        behind = after_reasoning(None if state == "open" else begin, end, answer)
        answer = behind if state == "open" else either(behind, answer)
    constraints = {**dict.fromkeys(_CONSTRAINTS), "ebnf": _grammar(answer, made_of)}
    return msgspec.structs.replace(sampling, **constraints), made_of


async def _calls(api: Api, format: CallFormat, dialogue: Dialogue, *, opened: bool) -> Format | None:
    """The answers that the tools allow; None if that is any text.

    opened: the prompt ends with the opening.
    """
    tools = dialogue.callable
    required = dialogue.choice == "required"
    if not tools or not (required or not dialogue.parallel or any(tool.strict for tool in tools)):
        return None
    asked = [(tool.name, await _enforced(api, format, tool)) for tool in tools]
    calls = format.structure(asked, free=not required, many=dialogue.parallel)
    return in_sequence(text(format.opening), calls) if required and not opened else calls


async def _enforced(api: Api, format: CallFormat, tool: Tool) -> dict[str, Any]:
    """The schema that a call must follow. One that cannot be enforced is refused later on, unless nobody
    asked for that: then the arguments are any object.
    """
    if tool.strict or not format.any_object:
        return tool.schema
    try:
        written = json.dumps(tool.schema)
    except RecursionError:
        raise InvalidRequest(
            f"tools: the parameters of {tool.name!r} are nested too deeply", param="tools"
        ) from None
    enforceable = await api.preparation.compiles(Constraint("json_schema", written))
    return tool.schema if enforceable else {"type": "object"}


def _given(sampling: SamplingBody, field: str, state: ReasoningState, written: str) -> Format | None:
    """The request's own constraint; None for one that stays as it is: then the model does not reason."""
    if field == "regex":
        return {"type": "regex", "pattern": sampling.regex}
    if field == "json_schema":
        schema = sampling.json_schema
        assert schema is not None, "the field was given"
        try:
            return json_value(json.loads(schema) if isinstance(schema, str) else schema)
        except ValueError:
            return None  # refused for what it is
    if state == "open":
        raise InvalidRequest(
            f"{written}: this model reasons before it answers, and a grammar cannot stand behind that; give"
            " json_schema or regex, or turn reasoning off in chat_template_kwargs, if the template can",
            param=written,
        )
    return None


def _grammar(answer: Format, made_of: str) -> str:
    try:
        return structural_tag({"type": "structural_tag", "format": answer})
    except RecursionError:
        raise InvalidRequest(f"{made_of}: a schema is nested too deeply", param=made_of) from None
    except ConstrainError as error:
        raise InvalidRequest(f"{made_of}: {error}", param=made_of) from error
