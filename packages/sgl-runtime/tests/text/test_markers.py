# SPDX-License-Identifier: Apache-2.0
"""Prompts built from role markers are the prompts that the template renders, or there are no markers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_runtime.text.chat import ChatTemplate, load_chat_template
from sgl_runtime.text.conversations import CONVERSATIONS
from sgl_runtime.text.tokenizer import Tokenizer, load_tokenizer

LLAMA_3_1 = """{{- bos_token }}{%- if messages[0].role == 'system' %}{%- set s = messages[0].content | trim %}
{%- set messages = messages[1:] %}{%- else %}{%- set s = '' %}{%- endif %}
{{- '<|h|>system<|/h|>\\n\\nDate: today\\n\\n' + s + '<|eot|>' }}
{%- for m in messages %}{{- '<|h|>' + m.role + '<|/h|>\\n\\n' + m.content | trim + '<|eot|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|h|>assistant<|/h|>\\n\\n' }}{%- endif %}"""

COUNTING = "{% for m in messages %}{{ loop.index }}{{ m.role }}:{{ m.content }};{% endfor %}"
FORGETFUL = "{% for m in messages[-2:] %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
NO_ASKING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{{ '?' if add_generation_prompt }}"
)
UPPER = "{% for m in messages %}<{{ m.role }}>{{ m.content | upper }}</>{% endfor %}"
SHORTENING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | replace('\\n', '') }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).map(str.strip).filter(bool)


def built(template: ChatTemplate, messages: list[dict[str, Any]]) -> str:
    """The prompt as sgl-lang builds it."""
    markers = template.role_markers()
    assert markers is not None
    if template.default_system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": template.default_system}, *messages]
    turns = [
        markers[message["role"]][0] + message["content"] + markers[message["role"]][1] for message in messages
    ]
    return "".join(turns) + markers["assistant"][0]


PLAIN = LLAMA_3_1.replace("Date: today\\n\\n", "")
TEMPLATES: dict[str, ChatTemplate] = {
    "llama-3.1": ChatTemplate(LLAMA_3_1, variables={"bos_token": "<s>"}, automatic="<s>"),
    "without-date": ChatTemplate(PLAIN),
    "without-system": ChatTemplate(WITHOUT_SYSTEM),
}


@pytest.fixture(scope="module")
def templates(smollm: Tokenizer) -> list[ChatTemplate]:
    names = (None, "chatml", "qwen", "llama-3-instruct", "zephyr", "yi-1.5")
    loaded = [load_chat_template(name, smollm) for name in names]
    return [*(template for template in loaded if template is not None), *TEMPLATES.values()]


@given(system=st.booleans(), texts=st.lists(TEXTS, min_size=1, max_size=5), data=st.data())
@settings(max_examples=150, deadline=None)
def test_markers_build_what_the_template_renders(
    system: bool, texts: list[str], data: st.DataObject, templates: list[ChatTemplate]
) -> None:
    template = data.draw(st.sampled_from(templates))
    markers = template.role_markers()
    assert markers is not None
    texts = texts[: len(texts) - 1 + len(texts) % 2]  # ends with a user's
    messages = [
        {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)
    ]
    if system and "system" in markers:
        messages.insert(0, {"role": "system", "content": "Be\nbrief."})
    assert built(template, messages) == template.render(messages).removeprefix("<s>")


def test_the_demonstration_model(smollm: Tokenizer) -> None:
    template = load_chat_template(None, smollm)
    assert template is not None
    assert template.role_markers() == {
        role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("system", "user", "assistant")
    }
    assert template.default_system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def test_what_a_template_writes_into_every_system_turn_belongs_to_its_begin() -> None:
    template = TEMPLATES["llama-3.1"]
    markers = template.role_markers()
    assert markers is not None
    assert markers["system"] == ("<|h|>system<|/h|>\n\nDate: today\n\n", "<|eot|>")
    assert markers["user"] == ("<|h|>user<|/h|>\n\n", "<|eot|>")
    assert template.default_system == "", "without a system message there is an empty one"


def test_a_template_that_refuses_system_messages_has_markers_for_the_others() -> None:
    markers = TEMPLATES["without-system"].role_markers()
    assert markers == {"user": ("<user>", "</>"), "assistant": ("<assistant>", "</>")}
    assert TEMPLATES["without-system"].default_system is None


@pytest.mark.parametrize(
    "source", [COUNTING, FORGETFUL, NO_ASKING, UPPER, SHORTENING, "fixed", "{{ raise_exception('no') }}"]
)
def test_a_template_that_is_not_turns_in_a_row_has_none(source: str) -> None:
    template = ChatTemplate(source)
    assert template.role_markers() is None
    assert template.default_system is None


def test_formats_of_the_table_that_have_markers(smollm: Tokenizer) -> None:
    templates = {name: load_chat_template(name, smollm) for name in CONVERSATIONS}
    without = {
        name
        for name, template in templates.items()
        if template is not None and template.role_markers() is None
    }
    # Those that open an answer otherwise than they write one.
    assert without == {"llama-2", "llama-2-chat", "vicuna_v1.1", "mistral", "deepseek-chat"}


def test_the_bos_token_that_the_tokenizer_adds_is_not_part_of_a_turn(folders: dict[str, Path]) -> None:
    template = load_chat_template("chatml", load_tokenizer(folders["byte-level"]))
    assert template is not None
    assert template.render([{"role": "user", "content": "x"}]).startswith("<s><|im_start|>user")
    markers = template.role_markers()
    assert markers is not None and markers["user"] == ("<|im_start|>user\n", "<|im_end|>\n")
