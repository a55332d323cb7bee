# SPDX-License-Identifier: Apache-2.0
"""The table of chat formats, and JSON files: what they render, written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sgl_runtime.errors import ConfigError, InvalidRequest
from sgl_runtime.text.chat import ChatTemplate, load_chat_template
from sgl_runtime.text.conversations import CONVERSATIONS, conversation_from_json
from sgl_runtime.text.tokenizer import Tokenizer

TURNS = [
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]
SYSTEM = [{"role": "system", "content": "S"}]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
EXPECTED = {
    "chatml": (
        "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
        "<|im_start|>assistant\n",
        "<|im_start|>system\nS<|im_end|>\n",
    ),
    "llama-3-instruct": (
        HEADER.format("user", "U") + HEADER.format("assistant", "A") + HEADER.format("user", "V")
        + "<|start_header_id|>assistant<|end_header_id|>\n\n",
        HEADER.format("system", "S"),
    ),
    "vicuna_v1.1": (f"{VICUNA} USER: U ASSISTANT: A</s>USER: V ASSISTANT:", None),
    "zephyr": (
        "<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n<|assistant|>\n",
        "<|system|>\nS</s>\n",
    ),
    "deepseek-chat": ("User: U\n\nAssistant: A<｜end▁of▁sentence｜>User: V\n\nAssistant:", "S\n\n"),
}  # fmt: skip
INSIDE = {
    "llama-2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nU [/INST] A </s><s>[INST] V [/INST]",
    "mistral": "[INST] S\n\nU [/INST] A</s>[INST] V [/INST]",
    "gemma-it": (
        "<start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
        "<start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n"
    ),
}


def built_in(name: str, tokenizer: Tokenizer) -> ChatTemplate:
    template = load_chat_template(name, tokenizer)
    assert template is not None
    return template


@pytest.mark.parametrize("name", EXPECTED)
def test_formats_of_the_table(name: str, smollm: Tokenizer) -> None:
    prompt, system = EXPECTED[name]
    template = built_in(name, smollm)
    assert template.render(TURNS) == prompt
    if system is not None:
        assert template.render([*SYSTEM, *TURNS]) == system + prompt


@pytest.mark.parametrize("name", INSIDE)
def test_formats_with_the_system_prompt_inside_the_first_turn(name: str, smollm: Tokenizer) -> None:
    template = built_in(name, smollm)
    assert template.render([*SYSTEM, *TURNS]) == INSIDE[name]
    for wrong in ([*TURNS, *TURNS], TURNS[1:], [*TURNS, *SYSTEM]):
        with pytest.raises(InvalidRequest, match=r"roles must alternate|message of role system"):
            template.render(wrong)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_format_shows_every_content_and_refuses_strange_roles(name: str, smollm: Tokenizer) -> None:
    template = built_in(name, smollm)
    messages = [{**message, "content": f"<{place}>"} for place, message in enumerate([*SYSTEM, *TURNS])]
    prompt = template.render(messages)
    places = [prompt.index(message["content"]) for message in messages]
    assert places == sorted(places)
    assert len(template.render(messages, add_generation_prompt=False)) <= len(prompt)
    with pytest.raises(InvalidRequest, match="role"):
        template.render([{"role": "narrator", "content": "x"}])
    assert template.stop == CONVERSATIONS[name].stop


def test_a_default_system_prompt_gives_way(smollm: Tokenizer) -> None:
    qwen = built_in("qwen", smollm)
    assert qwen.render(TURNS).startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    assert qwen.render([*SYSTEM, *TURNS]).startswith("<|im_start|>system\nS<|im_end|>\n<|im_start|>user")


def test_trimming(smollm: Tokenizer) -> None:
    spaced = [{"role": "system", "content": " S "}, {"role": "user", "content": "\nU\n"}]
    assert "\n\nS<|eot_id|>" in built_in("llama-3-instruct", smollm).render(spaced)
    assert "\n\nU<|eot_id|>" in built_in("llama-3-instruct", smollm).render(spaced)
    assert "user\n\nU\n<|im_end|>" in built_in("chatml", smollm).render(spaced)


FILE = {
    "name": "mine",
    "system": "<|im_start|>system",
    "user": "<|im_start|>user",
    "assistant": "<|im_start|>assistant",
    "sep_style": "CHATML",
    "sep": "<|im_end|>",
    "stop_str": ["<|im_end|>", "<|im_start|>"],
}
SHORT = FILE | {"system": "", "user": "USER", "assistant": "BOT", "sep": "#", "sep2": "%", "stop_str": None}


def from_file(tmp_path: Path, content: dict[str, Any], tokenizer: Tokenizer) -> ChatTemplate:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return built_in(str(file), tokenizer)


def test_a_json_file(tmp_path: Path, smollm: Tokenizer) -> None:
    template = from_file(tmp_path, FILE, smollm)
    assert template.render([*SYSTEM, *TURNS]) == EXPECTED["chatml"][1] + EXPECTED["chatml"][0]  # type: ignore[operator]
    assert template.render(TURNS) == EXPECTED["chatml"][0]
    assert template.stop == ("<|im_end|>", "<|im_start|>")
    template = from_file(tmp_path, FILE | {"system_message": "Hello", "stop_str": "x"}, smollm)
    assert template.render(TURNS).startswith("<|im_start|>system\nHello<|im_end|>\n<|im_start|>user\nU")
    assert template.stop == ("x",)


# As FastChat's separator styles join roles and contents.
STYLES = {
    "ADD_COLON_SINGLE": "S#USER: U#BOT: A#USER: V#BOT:",
    "ADD_COLON_SPACE_SINGLE": "S#USER: U#BOT: A#USER: V#BOT: ",
    "ADD_COLON_TWO": "S#USER: U#BOT: A%USER: V#BOT:",
    "ADD_NEW_LINE_SINGLE": "S#USER\nU#BOT\nA#USER\nV#BOT\n",
    "NO_COLON_SINGLE": "SUSERU#BOTA#USERV#BOT",
    "NO_COLON_TWO": "SUSERU#BOTA%USERV#BOT",
    "CHATML": "S#\nUSER\nU#\nBOT\nA#\nUSER\nV#\nBOT\n",
    "CHATGLM3": "SUSER\nUBOT\nAUSER\nVBOT",
    "CHATINTERN": "S<s>USER:U#\nBOT:A%\n<s>USER:V#\nBOT:",
    "DOLLY": "SUSER:\nU#BOT:\nA%\n\nUSER:\nV#BOT:\n",
    "DEEPSEEK_CHAT": "SUSER: U#BOT: A%USER: V#BOT:",
    "FALCON_CHAT": "S#USER: U#BOT: A#USER: V#BOT:",
    "LLAMA3": (
        "S<|start_header_id|>USER<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>BOT<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>USER<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>BOT<|end_header_id|>\n\n"
    ),
    "PHOENIX": "SUSER: <s>U</s>BOT: <s>A</s>USER: <s>V</s>BOT: <s>",
    "ROBIN": "S#USER:\nU#BOT:\nA#USER:\nV#BOT:\n",
}


@pytest.mark.parametrize("style", STYLES)
def test_separator_styles(style: str, tmp_path: Path, smollm: Tokenizer) -> None:
    template = from_file(tmp_path, SHORT | {"sep_style": style}, smollm)
    assert template.render([*SYSTEM, *TURNS]) == STYLES[style]
    assert template.stop == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sep_style": "LLAMA2"}, "sep_style is 'LLAMA2'; known are ADD_COLON_SINGLE, .*jinja"),
        ({"sep_style": "ADD_COLON_TWO", "sep2": None}, "sep_style ADD_COLON_TWO needs sep2"),
        ({"user": None}, r"Expected `str`, got `null` - at `\$\.user`"),
        ({"stop_str": 3}, r"at `\$\.stop_str`"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
)
def test_a_wrong_field_is_named(
    change: dict[str, Any], message: str, tmp_path: Path, smollm: Tokenizer
) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.json: .*{message}"):
        from_file(tmp_path, SHORT | change, smollm)


def test_a_file_without_a_field_or_that_is_no_json(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"mine\.json: Object missing required field `name`"):
        conversation_from_json(file)
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"mine\.json"):
        conversation_from_json(file)
