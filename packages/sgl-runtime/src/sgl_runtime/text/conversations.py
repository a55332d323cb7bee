# SPDX-License-Identifier: Apache-2.0
"""Chat formats as data: what opens and closes each role's turn. For models whose tokenizer brings no
template.

One jinja text renders them all, so that they go through the same door as a tokenizer's own template. Besides
the table there are the JSON files of `--chat-template FILE.json`: role texts, and a style that says how they
are joined.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from sgl_runtime.errors import ConfigError


class Conversation(NamedTuple):
    """A turn is `begin + content + end`, with (begin, end) by role."""

    user: tuple[str, str]
    assistant: tuple[str, str]
    system: tuple[str, str]
    system_in_user: bool = False  # the system turn stands inside the first user turn, after its begin
    default_system: str | None = None  # for conversations that begin without a system message
    opening: str | None = None  # what asks for an answer, if not what opens an assistant turn
    bos: bool = True  # begin with the bos token, if the tokenizer has texts begin so
    trim: bool = False  # outer white space of contents does not count
    alternates: bool = False  # user, assistant, user, ...: anything else is refused
    stop: tuple[str, ...] = ()


# Rendered with the fields of a Conversation as variables.
TEMPLATE = """
{%- if bos %}{{ bos_token }}{% endif -%}
{%- set turns = messages -%}
{%- set instruction = default_system -%}
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- set turns = messages[1:] -%}
    {%- set instruction = messages[0]['content'] -%}
{%- endif -%} {%- set lead = '' if instruction is none else system[0] + (instruction | trim if trim else
instruction) + system[1] -%} {%- if not system_in_user %}{{ lead }}{% endif -%} {%- for turn in turns -%}
    {%- set content = turn['content'] | trim if trim else turn['content'] -%}
    {%- if alternates and (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('After the optional system message, roles must alternate user, assistant, user,
        ...') }}
    {%- elif turn['role'] == 'user' -%}
        {{ user[0] + (lead if system_in_user and loop.first else '') + content + user[1] }}
    {%- elif turn['role'] == 'assistant' -%}
        {{ assistant[0] + content + assistant[1] }}
    {%- elif turn['role'] == 'system' and not system_in_user -%}
        {{ system[0] + content + system[1] }}
    {%- else -%}
        {{ raise_exception('This chat template has no place for a message of role ' ~ turn['role'] ~ ' here')
        }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ assistant[0] if opening is none else opening }}{% endif -%}
"""

_CHATML = Conversation(
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
    stop=("<|im_end|>",),
)
_LLAMA_2 = Conversation(
    system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
    system_in_user=True,
    user=("<s>[INST] ", " [/INST]"),
    assistant=(" ", " </s>"),
    opening="",
    bos=False,  # every user turn begins with it
    trim=True,
    alternates=True,
)
_COMMAND_R = "<|START_OF_TURN_TOKEN|><|{}_TOKEN|>"

CONVERSATIONS = {
    "chatml": _CHATML,
    "qwen": _CHATML._replace(default_system="You are a helpful assistant."),
    "internlm2-chat": _CHATML._replace(stop=("<|im_end|>", "<|action_end|>")),
    "yi-1.5": _CHATML._replace(system=("", "")),
    "llama-2": _LLAMA_2,
    "llama-2-chat": _LLAMA_2,
    "llama-3-instruct": Conversation(
        system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        trim=True,
        stop=("<|eot_id|>",),
    ),
    "vicuna_v1.1": Conversation(
        system=("", " "),
        user=("USER: ", " "),
        assistant=("ASSISTANT: ", "</s>"),
        opening="ASSISTANT:",
        default_system=(
            "A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions."
        ),
    ),
    "mistral": Conversation(
        system=("", "\n\n"),
        system_in_user=True,
        user=("[INST] ", " [/INST]"),
        assistant=(" ", "</s>"),
        opening="",
        alternates=True,
    ),
    "gemma-it": Conversation(
        system=("", "\n\n"),
        system_in_user=True,
        user=("<start_of_turn>user\n", "<end_of_turn>\n"),
        assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
        trim=True,
        alternates=True,
        stop=("<end_of_turn>",),
    ),
    "zephyr": Conversation(
        system=("<|system|>\n", "</s>\n"),
        user=("<|user|>\n", "</s>\n"),
        assistant=("<|assistant|>\n", "</s>\n"),
    ),
    "phi-3": Conversation(
        system=("<|system|>\n", "<|end|>\n"),
        user=("<|user|>\n", "<|end|>\n"),
        assistant=("<|assistant|>\n", "<|end|>\n"),
        stop=("<|end|>",),
    ),
    "c4ai-command-r": Conversation(
        system=(_COMMAND_R.format("SYSTEM"), "<|END_OF_TURN_TOKEN|>"),
        user=(_COMMAND_R.format("USER"), "<|END_OF_TURN_TOKEN|>"),
        assistant=(_COMMAND_R.format("CHATBOT"), "<|END_OF_TURN_TOKEN|>"),
        stop=("<|END_OF_TURN_TOKEN|>",),
    ),
    "deepseek-chat": Conversation(
        system=("", "\n\n"),
        user=("User: ", "\n\n"),
        assistant=("Assistant: ", "<｜end▁of▁sentence｜>"),
        opening="Assistant:",
    ),
}


class _Style(NamedTuple):
    """How a JSON file's role texts become turns: `before + role + between + content + end`."""

    between: str
    opening: str  # after the assistant's role, to ask for an answer
    ends: tuple[str, str]  # of user, of assistant
    after_system: str = ""
    before: tuple[str, str] = ("", "")


_ONE, _TWO = ("{sep}", "{sep}"), ("{sep}", "{sep2}")
_STYLES = {
    "ADD_COLON_SINGLE": _Style(": ", ":", _ONE, "{sep}"),
    "ADD_COLON_SPACE_SINGLE": _Style(": ", ": ", _ONE, "{sep}"),
    "ADD_COLON_TWO": _Style(": ", ":", _TWO, "{sep}"),
    "ADD_NEW_LINE_SINGLE": _Style("\n", "\n", _ONE, "{sep}"),
    "NO_COLON_SINGLE": _Style("", "", _ONE),
    "NO_COLON_TWO": _Style("", "", _TWO),
    "CHATML": _Style("\n", "\n", ("{sep}\n", "{sep}\n"), "{sep}\n"),
    "CHATGLM3": _Style("\n", "", ("", "")),
    "CHATINTERN": _Style(":", ":", ("{sep}\n", "{sep2}\n"), before=("<s>", "")),
    "DOLLY": _Style(":\n", ":\n", ("{sep}", "{sep2}\n\n")),
    "DEEPSEEK_CHAT": _Style(": ", ":", _TWO),
    "FALCON_CHAT": _Style(": ", ":", _ONE, "{sep}"),
    "LLAMA3": _Style(
        "<|end_header_id|>\n\n",
        "<|end_header_id|>\n\n",
        ("<|eot_id|>", "<|eot_id|>"),
        before=("<|start_header_id|>", "<|start_header_id|>"),
    ),
    "PHOENIX": _Style(": <s>", ": <s>", ("</s>", "</s>")),
    "ROBIN": _Style(":\n", ":\n", _ONE, "{sep}"),
}


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation file as it is written."""

    name: str
    system: str
    user: str
    assistant: str
    sep_style: str
    sep: str = "\n"
    sep2: str | None = None
    stop_str: str | list[str] | None = None
    system_message: str = ""


def conversation_from_json(file: Path) -> Conversation:
    """Read a `--chat-template FILE.json`. Raises ConfigError naming the file and the field."""
    try:
        given = msgspec.json.decode(file.read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error
    style = _STYLES.get(given.sep_style)
    if style is None:
        raise ConfigError(
            f"{file}: sep_style is {given.sep_style!r}; known are {', '.join(_STYLES)}. "
            f"Write other formats as a .jinja file"
        )
    if given.sep2 is None and any("{sep2}" in end for end in style.ends):
        raise ConfigError(
            f"{file}: sep_style {given.sep_style} needs sep2, the text after an assistant's turn"
        )

    def filled(text: str) -> str:
        return text.replace("{sep2}", given.sep2 or "").replace("{sep}", given.sep)

    stop = given.stop_str or ()
    return Conversation(
        system=(given.system + "\n" if given.system else "", filled(style.after_system)),
        user=(style.before[0] + given.user + style.between, filled(style.ends[0])),
        assistant=(style.before[1] + given.assistant + style.between, filled(style.ends[1])),
        opening=style.before[1] + given.assistant + style.opening,
        default_system=given.system_message or None,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
    )
