# SPDX-License-Identifier: Apache-2.0
"""Chat templates in the styles that publishers use, against transformers rendering the same text."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sgl_runtime.errors import ConfigError, InvalidRequest
from sgl_runtime.text.chat import ChatTemplate, load_chat_template
from sgl_runtime.text.conversations import CONVERSATIONS
from sgl_runtime.text.tokenizer import Tokenizer, load_tokenizer

WriteFolder = Callable[..., Path]

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}
{% if add_generation_prompt %}
    {{ '<|im_start|>assistant\\n' }}
{% endif %}"""

LLAMA_3 = """{{- bos_token }}
{%- set date = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|im_start|>system\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today: " + date + "\\n\\n" + system_message + "<|im_end|>" }}
{%- if tools %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
    {%- endfor %}
{%- endif %}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {{- message.tool_calls[0].function.arguments | tojson }}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|im_end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n\\n' }}
{%- endif %}"""

MISTRAL = """{{ bos_token }}{% for message in messages -%}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}
{%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

# Loop controls, a namespace, the mark of training texts, a macro, documents.
FEATURES = """{% macro turn(role, text) %}[{{ role }}|{{ text }}]{% endmacro %}
{% set ns = namespace(n=0) %}
{% for message in messages %}
    {% if message.role == 'skip' %}{% continue %}{% endif %}
    {% set ns.n = ns.n + 1 %}
    {% if message.role == 'assistant' %}{% generation %}{{ turn('A', message.content) }}{% endgeneration %}
    {% else %}{{ turn(message.role, message.content) }}{% endif %}
    {% if ns.n == 5 %}{% break %}{% endif %}
{% endfor %}{{ ns.n }} {{ documents }} {{ extra_word | default('none') }} {{ {'<b>': 'é'} | tojson }}"""

TEMPLATES = {"chatml": CHATML, "llama-3": LLAMA_3, "mistral": MISTRAL, "features": FEATURES}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["  hi ", "<b>&", "{{ x }}", "中"]
)


@pytest.fixture(scope="module")
def theirs(folders: dict[str, Path]) -> Any:
    return AutoTokenizer.from_pretrained(folders["byte-level"])


def conversation(*turns: str) -> list[dict[str, Any]]:
    """ "u:text" -> a user's message."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "k": "skip"}
    return [{"role": roles[turn[0]], "content": turn[2:]} for turn in turns]


def rendered(template: str, messages: list[dict[str, Any]], theirs: Any, **options: Any) -> str:
    return str(theirs.apply_chat_template(messages, chat_template=template, tokenize=False, **options))


@given(
    messages=st.tuples(st.booleans(), st.lists(TEXTS, min_size=1, max_size=6)).map(
        lambda drawn: [
            *([{"role": "system", "content": "Be brief. "}] if drawn[0] else []),
            *(
                {"role": ("user", "assistant")[place % 2], "content": text}
                for place, text in enumerate(drawn[1])
            ),
        ]
    ),
    ask=st.booleans(),
)
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_are_those_of_transformers(
    name: str, messages: list[dict[str, Any]], ask: bool, theirs: Any
) -> None:
    template = ChatTemplate(TEMPLATES[name], variables=SPECIAL)
    try:
        expected = rendered(TEMPLATES[name], messages, theirs, add_generation_prompt=ask)
    except jinja2.TemplateError as error:
        with pytest.raises(InvalidRequest, match="roles must alternate") as raised:
            template.render(messages, add_generation_prompt=ask)
        assert str(error) in raised.value.message and raised.value.param == "messages"
    else:
        assert template.render(messages, add_generation_prompt=ask) == expected


def test_tools_documents_and_more_variables(theirs: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "<é>", "parameters": {}}}]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": "<1>"}}}]}
    messages = [*conversation("u:hi"), call]
    ours = ChatTemplate(LLAMA_3, variables=SPECIAL).render(messages, tools=tools, add_generation_prompt=True)
    assert ours == rendered(LLAMA_3, messages, theirs, tools=tools, add_generation_prompt=True)
    assert '{"x": "<1>"}' in ours and f"Today: {datetime.now():%d %b %Y}" in ours
    messages = conversation("u:hi", "k:no", "a:1", "u:2", "a:3", "u:4", "a:5")
    ours = ChatTemplate(FEATURES).render(messages, extra_word="more", documents=[{"title": "t", "text": "x"}])
    assert ours == rendered(
        FEATURES,
        messages,
        theirs,
        add_generation_prompt=True,
        extra_word="more",
        documents=[{"title": "t", "text": "x"}],
    )
    assert "[A|3]" in ours and "[A|5]" not in ours and "more" in ours


def test_a_second_template_for_tools() -> None:
    template = ChatTemplate("plain{{ tools }}", tool_source="tools: {{ tools | length }}")
    assert template.render([], tools=[{}, {}]) == "tools: 2"
    assert template.render([]) == "plainNone"


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        (
            MISTRAL,
            conversation("s:x", "u:hi"),
            "Conversation roles must alternate user/assistant/user/assistant",
        ),
        ("{{ messages[0].content + 1 }}", conversation("u:hi"), "can only concatenate str"),
        ("{{ messages[0].content + '' }}", [{"role": "user", "content": None}], "unsupported operand"),
        ("{{ messages[0].missing.deeper }}", conversation("u:hi"), "has no attribute 'missing'"),
        ("{{ messages[3].content }}", conversation("u:hi"), "list object has no element 3"),
        ("{{ 1 // (messages | length - 1) }}", conversation("u:hi"), "by zero"),
        ("{{ '{missing}'.format(a=1) }}", conversation("u:hi"), "missing"),
        ("{{ range(1000000) | list }}", conversation("u:hi"), "Range too big"),
        ("{{ messages.append(1) }}", conversation("u:hi"), "is not safely callable|unsafe"),
        ("{{ ''.__class__.__mro__ }}", conversation("u:hi"), "is unsafe"),
        ("{{ messages[0].content | int | tojson(indent='x', separators=1) }}", conversation("u:1"), ""),
    ],
)
def test_what_a_template_refuses_is_the_requests_mistake(
    template: str, messages: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"the chat template refuses the messages: .*({message})"):
        ChatTemplate(template, variables=SPECIAL).render(messages)


def test_a_template_that_cannot_be_compiled_stops_the_start(write_folder: WriteFolder) -> None:
    folder = write_folder(tokenizer_config={"chat_template": "{% for %}"})
    with pytest.raises(ConfigError, match="the tokenizer's chat template is not a jinja template"):
        load_chat_template(None, load_tokenizer(folder))


def test_messages_are_not_changed() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    before = json.dumps(messages)
    ChatTemplate(CHATML).render(messages)
    assert json.dumps(messages) == before


PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
LISTS_ONLY = "{% for m in messages %}{% for part in m.content %}{{ part.text }};{% endfor %}{% endfor %}"
EITHER = (
    "{% for m in messages %}{% if m.content is string %}={{ m.content }}{% else %}list{% endif %}{% endfor %}"
)


def test_content_in_parts_is_given_as_the_template_wants_it() -> None:
    parts, text = [{"role": "user", "content": PARTS}], conversation("u:one")
    assert ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}").render(parts) == "one\ntwo"
    assert ChatTemplate(EITHER).render(parts) == "=one\ntwo"
    assert ChatTemplate(LISTS_ONLY).render(parts) == "one;two;"
    assert ChatTemplate(LISTS_ONLY).render(text) == "one;"


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "image_url"),
        ({"type": "text"}, "text"),
        ("x", "str"),
        ({}, "None"),
    ],
)
def test_content_that_is_not_text_is_refused_by_its_place(part: Any, kind: str) -> None:
    messages = [*conversation("u:a"), {"role": "user", "content": [*PARTS, part]}]
    with pytest.raises(InvalidRequest, match=f"a content part of type {kind} cannot be given") as raised:
        ChatTemplate(CHATML).render(messages)
    assert raised.value.param == "messages[1].content[2]"


# ------------------------------------------------------------------------------------------------- loading


def test_the_demonstration_models_own_template(smollm: Tokenizer) -> None:
    template = load_chat_template(None, smollm)
    assert template is not None
    assert template.render(conversation("u:你好")) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template.stop == ("<|im_end|>",)
    assert template.default_system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def test_no_template_at_all(folders: dict[str, Path]) -> None:
    assert load_chat_template(None, load_tokenizer(folders["byte-level"])) is None


def test_a_jinja_file_replaces_the_tokenizers_template(write_folder: WriteFolder, tmp_path: Path) -> None:
    listed = [{"name": "default", "template": "own"}, {"name": "tool_use", "template": "own tools"}]
    folder = write_folder(tokenizer_config={"chat_template": listed, "bos_token": "<s>", "eos_token": "</s>"})
    tokenizer = load_tokenizer(folder)
    own = load_chat_template(None, tokenizer)
    assert own is not None and (own.render([]), own.render([], tools=[{}])) == ("own", "own tools")
    (tmp_path / "mine.jinja").write_text(MISTRAL)
    template = load_chat_template(str(tmp_path / "mine.jinja"), tokenizer)
    assert template is not None
    assert template.render(conversation("u:hi"), tools=[{}]) == "<s>[INST] hi [/INST]"
    assert template.stop == ("</s>",)


@pytest.mark.parametrize("name", ["no-such-name", "missing.txt", "chatml.yaml", ""])
def test_an_unknown_name_lists_the_known_ones(name: str, smollm: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=f"--chat-template {name} is neither .*chatml, .*vicuna_v1"):
        load_chat_template(name, smollm)


@pytest.mark.parametrize("name", ["missing.jinja", "missing.json"])
def test_a_missing_file_is_named(name: str, smollm: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=name):
        load_chat_template(str(tmp_path / name), smollm)


def test_built_in_templates_begin_with_the_bos_token_where_texts_do(
    folders: dict[str, Path], smollm: Tokenizer
) -> None:
    """A prompt is encoded without adding anything, so it must be complete; and it must not begin twice."""
    llama = load_tokenizer(folders["sentencepiece"])
    for name in CONVERSATIONS:
        template = load_chat_template(name, llama)
        assert template is not None
        prompt = template.render(conversation("u:hi"))
        assert prompt.startswith("<s>") and not prompt.startswith("<s><s>"), name
        tokens = llama.encode(prompt, add_special=False)
        assert tokens.count(llama.bos or -1) == 1
        without = load_chat_template(name, smollm)
        assert without is not None and "<|im_start|><|im_start|>" not in without.render(conversation("u:hi"))
