# SPDX-License-Identifier: Apache-2.0
"""Which format a template speaks, told from the templates of its family; and what each format's grammar
allows.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from sgl_constrain import Compiler, Matcher, Vocabulary
from sgl_constrain.structural import structural_tag

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.text.answer.formats import FORMATS, find_format, new_call_id, short_id, shows_tools
from sgl_runtime.text.answer.structure import after_reasoning, in_sequence, json_value
from sgl_runtime.text.answer.structure import text as const
from sgl_runtime.text.chat import ChatTemplate

TURNS = "{%- for m in messages %}<|{{ m.role }}|>"
ASK = "<|end|>{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
TEMPLATES: dict[str, str] = {
    "hermes": TOOLS
    + TURNS
    + "{{ m.content or '' }}{% for c in m.tool_calls or [] %}\n<tool_call>\n"
    + '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    + "{% endfor %}"
    + ASK,
    "mistral": "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% elif m.tool_calls %}"
    "[TOOL_CALLS] [{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('ids of 9') }}"
    '{% endif %}{% set f = c.function | tojson %}{{ f[:-1] }}, "id": "{{ c.id }}"}{% endfor %}]</s>'
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
    "mistral-named": "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}[ARGS]"
    "{{ c.function.arguments | tojson }}{% endfor %}</s>{% endif %}{% endfor %}",
    "llama3": TOOLS
    + TURNS
    + "{% if 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call') }}"
    + '{% endif %}{"name": "{{ m.tool_calls[0].function.name }}", "parameters": '
    + "{{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}"
    + ASK,
    "pythonic": TOOLS
    + TURNS
    + "{% if m.tool_calls %}[{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in "
    + "c.function.arguments.items() %}{{ k }}={{ v | tojson }}{% endfor %}){% endfor %}]{% else %}"
    + "{{ m.content }}{% endif %}"
    + ASK,
}


@pytest.mark.parametrize("format", FORMATS)
def test_a_template_tells_its_format(format: str) -> None:
    template = ChatTemplate(TEMPLATES[format])
    assert find_format(template) == format
    assert shows_tools(template)


def test_a_template_without_tools() -> None:
    template = ChatTemplate(TURNS + "{{ m.content }}" + ASK)
    assert find_format(template) is None
    assert not shows_tools(template)
    assert find_format(ChatTemplate("{{ raise_exception('no') }}")) is None


def test_ids() -> None:
    ids = [new_call_id() for _ in range(100)]
    assert len({short_id(id) for id in ids}) == 100
    assert all(len(short_id(id)) == 9 and short_id(id).isalnum() for id in ids)
    assert short_id("abcDEF123") == "abcDEF123"
    assert short_id("") == short_id("")


PEOPLE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"$ref": "#/$defs/age"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["age"],
    "additionalProperties": False,
    "$defs": {"age": {"type": "integer", "minimum": 0}},
}
ARGUMENTS = [{"age": 5}, {"name": 'Ü"\n', "age": 0}, {"age": 1, "tags": ["a", "b"]}]
WRONG: list[dict[str, Any]] = [{}, {"age": -1}, {"age": "x"}, {"age": 1, "other": 2}, {"name": "x"}]
TOOLS_ASKED = [("f", PEOPLE), ("g", {"type": "object", "properties": {}})]


def allows(format: dict[str, Any], text: str, opening: str = "") -> bool:
    """By sgl-constrain, over a vocabulary of bytes. opening: what the prompt ends with."""
    if not text.startswith(opening):
        return False
    text = text.removeprefix(opening)
    vocabulary = Vocabulary([bytes([byte]) for byte in range(256)] + [b""], eos=[256])
    grammar = Compiler(vocabulary).lark(structural_tag({"type": "structural_tag", "format": format}))
    matcher = Matcher(grammar)
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(256)


@pytest.mark.parametrize("name", FORMATS)
class TestGrammars:
    def test_calls_alone(self, name: str) -> None:
        format = FORMATS[name]
        many = format.structure(TOOLS_ASKED, free=False, many=True)
        one = format.structure(TOOLS_ASKED, free=False, many=False)
        for arguments in ARGUMENTS:
            calls: list[tuple[str, dict[str, Any]]] = [("f", arguments), ("g", {})]
            assert allows(many, _json_spelled(name, calls), format.opening)
            assert not allows(one, _json_spelled(name, calls), format.opening)
            assert allows(one, _json_spelled(name, calls[:1]), format.opening)
        for wrong in WRONG:
            assert not allows(one, _json_spelled(name, [("f", wrong)]), format.opening)
        for text in ("", "Hello", _json_spelled(name, [("h", {})]), "x" + _json_spelled(name, [("g", {})])):
            assert not allows(many, text, format.opening)

    def test_calls_in_a_text(self, name: str) -> None:
        free = FORMATS[name].structure(TOOLS_ASKED, free=True, many=True)
        call = _json_spelled(name, [("f", ARGUMENTS[0])])
        assert allows(free, "Hello, {1}!\n")
        assert allows(free, call)
        assert not allows(free, _json_spelled(name, [("f", WRONG[0])]))
        assert allows(free, "Well: " + call)

    def test_behind_reasoning(self, name: str) -> None:
        calls = in_sequence(
            const(FORMATS[name].opening), FORMATS[name].structure(TOOLS_ASKED, free=False, many=True)
        )
        call = _json_spelled(name, [("f", ARGUMENTS[0])])
        for begin in ("<think>", None):
            format = after_reasoning(begin, "</think>", calls)
            assert allows(format, f"{begin or ''}Hm.\n</think>\n\n{call}")
            assert not allows(format, call)


def test_json_behind_reasoning() -> None:
    format = after_reasoning(None, "</think>", json_value({"type": "integer"}))
    assert allows(format, "Hm.</think>12")
    assert not allows(format, "Hm.</think>x")


def test_what_python_cannot_say_is_refused() -> None:
    for schema, said in (
        ({"properties": {"a-b": {}}}, "'a-b'"),
        ({"properties": {"a": {}}, "minProperties": 1}, "'minProperties'"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            FORMATS["pythonic"].structure([("f", {"type": "object", **schema})], free=False, many=True)


def _json_spelled(format: str, calls: list[tuple[str, dict[str, Any]]]) -> str:
    """As the format is written, values as JSON."""
    if format != "pythonic":
        return FORMATS[format].write(calls)
    named = [
        f"{name}({', '.join(f'{k}={json.dumps(v, ensure_ascii=False)}' for k, v in arguments.items())})"
        for name, arguments in calls
    ]
    return f"[{', '.join(named)}]"
