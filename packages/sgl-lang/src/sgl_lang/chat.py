# SPDX-License-Identifier: Apache-2.0
"""`ChatTemplate`: the markup around the turns of a conversation, as a value.

A server that knows its model's template reports it, and then nothing here is guessed. The table below serves
endpoints that cannot say. The begin-of-sequence token is not in it: tokenizers add that themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sgl_lang.errors import ProgramError


class Markup(NamedTuple):
    """What stands before and after a turn."""

    begin: str
    end: str


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """How turns become text.

    Attributes:
        name: for messages to people.
        roles: the markup of each role; a role that is absent does not exist for this model.
        default_system: the system prompt of a conversation that states none; None: there is none.
        stop: strings that end a turn of the assistant.
        user_after_system: the user's markup directly after a system turn, for models that take the system
            prompt as part of the first user turn; None: the same as always.
        image_token: what stands in the text where an image or a video is shown.
    """

    name: str
    roles: Mapping[str, Markup]
    default_system: str | None = None
    stop: tuple[str, ...] = ()
    user_after_system: Markup | None = None
    image_token: str = "<image>"

    def markup(self, role: str, previous: str | None) -> Markup:
        """The markup of a turn of `role` after a turn of `previous` (None: it is the first).

        Raises ProgramError when the template has no such role.
        """
        if role == "user" and previous == "system" and self.user_after_system is not None:
            return self.user_after_system
        if role not in self.roles:
            known = ", ".join(self.roles)
            raise ProgramError(f"the chat template {self.name!r} has no role {role!r}; it has {known}")
        return self.roles[role]


def _template(
    name: str,
    system: tuple[str, str],
    user: tuple[str, str],
    assistant: tuple[str, str],
    *,
    default_system: str | None = None,
    stop: tuple[str, ...] = (),
    user_after_system: tuple[str, str] | None = None,
) -> ChatTemplate:
    return ChatTemplate(
        name=name,
        roles={"system": Markup(*system), "user": Markup(*user), "assistant": Markup(*assistant)},
        default_system=default_system,
        stop=stop,
        user_after_system=None if user_after_system is None else Markup(*user_after_system),
    )


_CHATML = (
    ("<|im_start|>system\n", "<|im_end|>\n"),
    ("<|im_start|>user\n", "<|im_end|>\n"),
    ("<|im_start|>assistant\n", "<|im_end|>\n"),
)

TEMPLATES: Mapping[str, ChatTemplate] = {
    template.name: template
    for template in (
        _template("default", ("SYSTEM:", "\n"), ("USER:", "\n"), ("ASSISTANT:", "\n")),
        _template("claude", ("", ""), ("\n\nHuman: ", ""), ("\n\nAssistant:", ""), stop=("\n\nHuman:",)),
        _template("chatml", *_CHATML, stop=("<|im_end|>",)),
        _template("qwen", *_CHATML, stop=("<|im_end|>",), default_system="You are a helpful assistant."),
        _template("yi-1.5", ("", ""), *_CHATML[1:], stop=("<|im_end|>",)),
        _template(
            "llama-2-chat",
            ("[INST] <<SYS>>\n", "\n<</SYS>>\n\n"),
            ("[INST] ", " [/INST]"),
            ("", " </s><s>"),
            user_after_system=("", " [/INST]"),
        ),
        _template(
            "llama-3-instruct",
            ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
            ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
            ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
            stop=("<|eot_id|>",),
        ),
        _template(
            "vicuna_v1.1",
            ("", " "),
            ("USER: ", " "),
            ("ASSISTANT:", "</s>"),
            default_system="A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        ),
        _template(
            "gemma-it",
            ("<start_of_turn>user\n", "\n\n"),
            ("<start_of_turn>user\n", "<end_of_turn>\n"),
            ("<start_of_turn>model\n", "<end_of_turn>\n"),
            stop=("<end_of_turn>",),
            user_after_system=("", "<end_of_turn>\n"),
        ),
        _template(
            "c4ai-command-r",
            ("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            ("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
            stop=("<|END_OF_TURN_TOKEN|>",),
        ),
    )
}

# All words of a line must occur in the lower-cased model path; the first line that fits decides.
_MODELS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("vicuna",), "vicuna_v1.1"),
    (("llama-2", "chat"), "llama-2-chat"),
    (("llama-3", "instruct"), "llama-3-instruct"),
    (("qwen", "chat"), "qwen"),
    (("qwen", "instruct"), "qwen"),
    (("gemma", "-it"), "gemma-it"),
    (("yi-1.5", "chat"), "yi-1.5"),
    (("smollm", "instruct"), "chatml"),
    (("command-r",), "c4ai-command-r"),
    (("claude",), "claude"),
)


def named_template(name: str) -> ChatTemplate:
    """The template called `name`. Raises ProgramError, listing the names there are."""
    if name not in TEMPLATES:
        raise ProgramError(f"there is no chat template {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def guess_template(model_path: str) -> ChatTemplate:
    """The template that fits a model of this name, else "default"."""
    path = model_path.lower()
    fitting = (name for words, name in _MODELS if all(word in path for word in words))
    return TEMPLATES[next(fitting, "default")]
