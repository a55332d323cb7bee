# SPDX-License-Identifier: Apache-2.0
"""`ChatTemplate`: a conversation to the text of a prompt.

A template is jinja, rendered in a sandbox with the same names and filters that `transformers` gives it, so
that a tokenizer's own template means here what its publisher tested. What a template refuses is the request's
mistake; a template that cannot be compiled is the server's. Tokens are not known here: a rendered prompt is
complete, bos token included, and is encoded without adding any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sgl_runtime.errors import ConfigError, InvalidRequest
from sgl_runtime.text.conversations import CONVERSATIONS, TEMPLATE, Conversation, conversation_from_json
from sgl_runtime.text.markers import Markers, find_markers
from sgl_runtime.text.tokenizer import Tokenizer

# What expressions of a template can raise on contents that it did not expect.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_PROBE = "Sentinel"


class ChatTemplate:
    """A compiled template.

    name: where it comes from, for messages.
    variables: what it sees besides the conversation, such as bos_token.
    tool_source: another text for conversations with tools; many publish two.
    stop: texts that end an answer in this format; may repeat what ends the model's texts anyway.
    source: the jinja text.
    automatic: the text that the tokenizer puts before every text by itself; not part of the markers.
    """

    def __init__(
        self,
        source: str,
        *,
        name: str = "the chat template",
        variables: Mapping[str, Any] | None = None,
        tool_source: str | None = None,
        stop: Sequence[str] = (),
        automatic: str = "",
    ) -> None:
        self.stop = tuple(stop)
        self.source = source
        self._name = name
        self._variables = dict(variables or {})
        self._automatic = automatic
        self._template = self._compile(source)
        self._tool_template = None if tool_source is None else self._compile(tool_source)
        self._as_parts = False
        if not self._shows_contents():
            # Some templates show a list of parts, but not a string.
            self._as_parts = True
            self._as_parts = self._shows_contents()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **extra: Any,
    ) -> str:
        """The prompt of a conversation; encode it without adding special tokens.

        A message's content is a string or a list of `{"type": "text", "text": ...}`; `extra` are more
        variables for the template. Raises InvalidRequest with the template's own words for what it refuses.
        """
        template = self._template if tools is None else self._tool_template or self._template
        names = {**self._variables, "documents": None, **extra}
        names |= {
            "messages": [self._message(place, message) for place, message in enumerate(messages)],
            "tools": None if tools is None else list(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return template.render(names)
        except _TEMPLATE_ERRORS as error:
            raise InvalidRequest(
                f"the chat template refuses the messages: {error}", param="messages"
            ) from error

    def role_markers(self) -> dict[str, tuple[str, str]] | None:
        """(begin, end) of the turns of user, assistant and, if it is taken, system: what stands around the
        content.

        A prompt is the turns one after another, then the begin of the assistant's. Without the bos token that
        the tokenizer adds to a text by itself. None if the template's prompts are not of that kind.
        """
        return None if self._markers is None else dict(self._markers.roles)

    @property
    def default_system(self) -> str | None:
        """The system content that the template puts where none is given, if it has markers."""
        return None if self._markers is None else self._markers.default_system

    @cached_property
    def _markers(self) -> Markers | None:
        return find_markers(self._attempt)

    def _attempt(self, messages: Sequence[Mapping[str, Any]], ask: bool) -> str | None:
        try:
            text = self.render(messages, add_generation_prompt=ask)
        except InvalidRequest:
            return None
        return text.removeprefix(self._automatic)

    def _compile(self, source: str) -> jinja2.Template:
        try:
            return _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ConfigError(f"{self._name} is not a jinja template: {error}") from error

    def _message(self, place: int, message: Mapping[str, Any]) -> dict[str, Any]:
        """The message with its content as the template wants it."""
        content = message.get("content")
        if isinstance(content, str) and self._as_parts:
            return {**message, "content": [{"type": "text", "text": content}]}
        if not isinstance(content, (list, tuple)):
            return dict(message)
        for index, part in enumerate(content):
            if (
                not isinstance(part, Mapping)
                or part.get("type") != "text"
                or not isinstance(part.get("text"), str)
            ):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise InvalidRequest(
                    f"a content part of type {kind} cannot be given to this model; give text",
                    param=f"messages[{place}].content[{index}]",
                )
        if self._as_parts:
            return dict(message)
        return {**message, "content": "\n".join(part["text"] for part in content)}

    def _shows_contents(self) -> bool:
        return _PROBE in (self._attempt([{"role": "user", "content": _PROBE}], True) or "")


def load_chat_template(name_or_file: str | None, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template of `--chat-template`, or the tokenizer's own; None if there is neither.

    `name_or_file` is a built-in name, a .jinja file or a .json file. Raises ConfigError, with the names there
    are, for anything else, and for a template that cannot be compiled.
    """
    bos = tokenizer.special_tokens.get("bos_token", "") if tokenizer.adds_bos else ""
    if name_or_file is None:
        if tokenizer.chat_template is None:
            return None
        tools = tokenizer.chat_templates.get("tool_use")
        return _from_text("the tokenizer's chat template", tokenizer.chat_template, tools, tokenizer, bos)
    file = Path(name_or_file).expanduser()
    if name_or_file in CONVERSATIONS:
        return _from_conversation(name_or_file, CONVERSATIONS[name_or_file], bos)
    if file.suffix == ".json":
        return _from_conversation(name_or_file, conversation_from_json(file), bos)
    if file.suffix == ".jinja":
        try:
            source = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--chat-template {name_or_file} cannot be read: {error}") from error
        return _from_text(name_or_file, source, None, tokenizer, bos)
    raise ConfigError(
        f"--chat-template {name_or_file} is neither a .jinja file nor a .json file "
        f"nor one of {', '.join(CONVERSATIONS)}"
    )


def _from_conversation(name: str, conversation: Conversation, bos: str) -> ChatTemplate:
    return ChatTemplate(
        TEMPLATE,
        name=name,
        variables={**conversation._asdict(), "bos_token": bos},
        stop=conversation.stop,
        automatic=bos,
    )


def _from_text(name: str, source: str, tools: str | None, tokenizer: Tokenizer, bos: str) -> ChatTemplate:
    template = ChatTemplate(
        source, name=name, variables=tokenizer.special_tokens, tool_source=tools, automatic=bos
    )
    template.stop = _implied_stop(template, tokenizer)
    return template


def _implied_stop(template: ChatTemplate, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The special token that the template writes after an answer: the model has learned to end with it."""
    conversation = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": _PROBE}]
    try:
        _, found, after = template.render(conversation, add_generation_prompt=False).rpartition(_PROBE)
    except InvalidRequest:
        return ()
    texts = (tokenizer.vocabulary[token].decode() for token in tokenizer.special)
    ends = [text for text in texts if found and text and after.lstrip().startswith(text)]
    return (max(ends, key=len),) if ends else ()


class _Generation(Extension):
    """`{% generation %}` marks an assistant's text for training; here its body is all there is to it."""

    tags = {"generation"}  # noqa: RUF012  # jinja's name and type

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
