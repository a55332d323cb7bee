# SPDX-License-Identifier: Apache-2.0
"""What answers say: calls in every format, reasoning, and that no division of a text changes what is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_runtime.text.answer.formats import FORMATS
from sgl_runtime.text.answer.pieces import Arguments, Call, Piece, Reading, Reasoning, Text, tidied
from sgl_runtime.text.answer.source import Reader, Source
from sgl_runtime.text.answer.thinking import MARKS, read_reasoning

NAMES = {"f", "get_weather", "g"}
Read = Callable[[Source], Reading]


def of(format: str, *, thinks: str | None = None, opened: bool = False) -> Read:
    def read(source: Source) -> Reading:
        if thinks is not None:
            yield from read_reasoning(source, MARKS[thinks], opened=opened)
        yield from FORMATS[format].read(source, NAMES)

    return lambda source: tidied(read(source))


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """As a client accumulates them."""
    found: list[Any] = []
    for piece in pieces:
        if found and not isinstance(piece, Call) and type(found[-1]) is type(piece):
            found[-1] = type(piece)(found[-1].text + piece.text)
        else:
            found.append(piece)
    return found


def pieces_of(read: Read, *parts: str) -> list[Piece]:
    reader = Reader(read)
    found = [piece for part in parts for piece in reader.push(part)]
    return joined([*found, *reader.finish()])


def calls_of(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        if isinstance(piece, Call):
            calls.append((piece.name, ""))
        elif isinstance(piece, Arguments):
            calls[-1] = (calls[-1][0], calls[-1][1] + piece.text)
    return calls


SCRAPS = [
    *("<tool_call>", "</tool_call>", "<tool", "[TOOL_CALLS]", "f[ARGS]", "[", "]", "{", '{"name": "f"', "; "),
    *(
        "<|python_tag|>",
        "<think>",
        "</think>",
        "[THINK]",
        "[/THINK]",
        "</",
        "\n",
        " ",
        '"f"',
        "f(",
        "a=1",
        ")",
    ),
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["a", "b", "city", "名"])
CALLS = st.lists(
    st.tuples(st.sampled_from(sorted(NAMES)), st.dictionaries(KEYS, JSON, max_size=3)), min_size=1, max_size=3
)


def divided(draw: Any, text: str) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("format", FORMATS)
class TestEveryFormat:
    @settings(deadline=None, max_examples=20)
    @given(data=st.data(), calls=CALLS)
    def test_calls_come_back_as_they_were_written(
        self, format: str, data: st.DataObject, calls: list[tuple[str, dict[str, Any]]]
    ) -> None:
        text = FORMATS[format].write(calls)
        pieces = pieces_of(of(format), *divided(data.draw, text))
        found = [(name, json.loads(arguments)) for name, arguments in calls_of(pieces)]
        assert found == calls
        assert not [piece for piece in pieces if isinstance(piece, Text | Reasoning)]

    @settings(deadline=None, max_examples=60)
    @given(data=st.data())
    def test_no_division_changes_what_is_read(self, format: str, data: st.DataObject) -> None:
        """Nor is anything of the text lost where there is no call."""
        text = data.draw(answers(format))
        opened = data.draw(st.booleans())
        thinks = data.draw(st.sampled_from([None, *MARKS]))
        read = of(format, thinks=thinks, opened=opened)
        whole = pieces_of(read, text)
        assert pieces_of(read, *divided(data.draw, text)) == whole
        assert pieces_of(read, *text) == whole
        if thinks is None and not calls_of(whole):
            assert whole == ([Text(text)] if text else [])

    def test_text_is_given_as_soon_as_it_is_certain(self, format: str) -> None:
        reader = Reader(of(format))
        assert reader.push("Hel") == [Text("Hel")]
        assert reader.push("lo ") == [Text("lo")]
        assert reader.push("you\n") == [Text(" you")]
        assert reader.finish() == [Text("\n")]

    def test_two_calls_in_one_piece(self, format: str) -> None:
        text = FORMATS[format].write([("f", {"a": 1}), ("g", {"b": [True, None]})])
        assert calls_of(Reader(of(format)).push(text)) == [("f", '{"a": 1}'), ("g", '{"b": [true, null]}')]

    def test_a_tool_that_is_not_there_is_not_called(self, format: str) -> None:
        text = FORMATS[format].write([("unknown", {"a": 1})])
        assert pieces_of(of(format), text) == [Text(text)]

    def test_white_space_around_calls_is_no_content(self, format: str) -> None:
        text = FORMATS[format].write([("f", {})])
        assert pieces_of(of(format), f"\n{text}\n\n") == [Call("f"), Arguments("{}")]
        after = pieces_of(of(format), f"{text}\nDone. ")
        assert after == [Call("f"), Arguments("{}"), Text("Done. ")], "of the text's end nobody knows"


@st.composite
def answers(draw: Any, format: str) -> str:
    """Calls, texts, marks and pieces of all of them, in any order."""
    whole = st.builds(FORMATS[format].write, CALLS)
    broken = st.builds(lambda text, at: text[: at % (len(text) + 1)], whole, st.integers(0, 200))
    mutated = st.builds(
        lambda text, at, new: text[: at % len(text)] + new + text[at % len(text) + 1 :],
        whole,
        st.integers(0, 200),
        st.sampled_from(["", "}", '"', "\\", "<", "[", " ", "é", "("]),
    )
    scraps = st.sampled_from(SCRAPS)
    text = st.text(max_size=6)
    return "".join(draw(st.lists(whole | broken | mutated | scraps | text, max_size=6)))


HERMES = '<tool_call>\n{"name": "f", "arguments": {"a": "x"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (
            f"Let me see.\n{HERMES}\n{HERMES}",
            [Text("Let me see."), *[Call("f"), Arguments('{"a": "x"}')] * 2],
        ),
        # arguments before the name, other keys, arguments as a string, null, none
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [Call("f"), Arguments('{"a": 1}')]),
        (
            '<tool_call>{"id": [1], "name": "f", "arguments": {}, "x": {}}</tool_call>',
            [Call("f"), Arguments("{}")],
        ),
        (
            r'<tool_call>{"name": "f", "arguments": "{\"a\": 1}"}</tool_call>',
            [Call("f"), Arguments('{"a": 1}')],
        ),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', [Call("f"), Arguments("{}")]),
        ('<tool_call>{"name": "f"}</tool_call>', [Call("f"), Arguments("{}")]),
        # the closing mark inside of a string is a part of it
        (
            '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>',
            [Call("f"), Arguments('{"a": "</tool_call>"}')],
        ),
        # a brace too few; broken arguments go to the mark; broken off
        ('<tool_call>{"name": "f", "arguments": {}</tool_call> ok', [Call("f"), Arguments("{}"), Text("ok")]),
        (
            '<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>ok',
            [Call("f"), Arguments("{a: 1}}"), Text("ok")],
        ),
        (
            '<tool_call>{"name": "f", "arguments": [1]}</tool_call>ok',
            [Call("f"), Arguments("[1]}"), Text("ok")],
        ),
        ('<tool_call>{"name": "f", "arguments": {"a": "x', [Call("f"), Arguments('{"a": "x')]),
        ('<tool_call>{"name": "f", "argu', [Call("f")]),
        ('<tool_call>{"name": "f', [Text('<tool_call>{"name": "f')]),
        # no closing mark
        ('<tool_call>{"name": "f", "arguments": {}}', [Call("f"), Arguments("{}")]),
        (f"<tool_call> no {HERMES}", [Text("<tool_call> no"), Call("f"), Arguments('{"a": "x"}')]),
    ],
)
def test_hermes(text: str, pieces: list[Piece]) -> None:
    assert pieces_of(of("hermes"), text) == pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ('<|python_tag|>{"name": "f", "parameters": {}}', [Call("f"), Arguments("{}")]),
        ('So: <|python_tag|>{"name": "f", "parameters": {}}', [Text("So:"), Call("f"), Arguments("{}")]),
        (
            '{"name": "f", "arguments": {}}\n{"name": "g"}',
            [Call("f"), Arguments("{}"), Call("g"), Arguments("{}")],
        ),
        (
            'The JSON is {"name": "f", "parameters": {}}',
            [Text('The JSON is {"name": "f", "parameters": {}}')],
        ),
        ('{"a": 1}', [Text('{"a": 1}')]),
        ('{"name": "f", "parameters": {"a": nul}', [Call("f"), Arguments('{"a": nul}')]),
        ("<|python_tag|>f.call()", [Text("<|python_tag|>f.call()")]),
    ],
)
def test_llama(text: str, pieces: list[Piece]) -> None:
    assert pieces_of(of("llama3"), text) == pieces


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (
            'Well [TOOL_CALLS][{"name": "f", "arguments": {}, "id": "9charsid1"}]',
            [Text("Well"), Call("f"), Arguments("{}")],
        ),
        ('[TOOL_CALLS]f[CALL_ID]abcdefghi[ARGS]{"a": 1}', [Call("f"), Arguments('{"a": 1}')]),
        (
            '[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]g{}',
            [Call("f"), Arguments('{"a": 1}'), Call("g"), Arguments("{}")],
        ),
        ('[TOOL_CALLS]f{"a": [TOOL_CALLS]g{}', [Call("f"), Arguments('{"a": [TOOL_CALLS]g{}')]),
        ("[TOOL_CALLS]f{a}[TOOL_CALLS]g{}", [Call("f"), Arguments("{a}"), Call("g"), Arguments("{}")]),
        ("[TOOL_CALLS] []", [Text("[TOOL_CALLS] []")]),
        ('[TOOL_CALLS] [{"name": "f"}, {"nom": 1}]', [Call("f"), Arguments("{}"), Text(', {"nom": 1}]')]),
    ],
)
def test_mistral(text: str, pieces: list[Piece]) -> None:
    assert pieces_of(of("mistral"), text) == pieces
    assert pieces_of(of("mistral"), *text) == pieces


def test_a_mark_is_looked_for_behind_what_was_read() -> None:
    """The bracket of the second mark has been read as a list's, whether it was handed on or not."""
    text = '[TOOL_CALLS]f[ARGS]{"a":[TOOL_CALLS]g[ARGS]{}'
    for at in range(len(text)):
        found = pieces_of(of("mistral"), text[:at], text[at:])
        assert found == [Call("f"), Arguments('{"a":[TOOL_CALLS]g[ARGS]{}')]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<|python_start|>[f()]<|python_end|>", [Call("f"), Arguments("{}")]),
        (
            "[f(a='it\\'s', b=-1.5, c={'x': (1, True, null)}, d=\"[)\", )]",
            [Call("f"), Arguments('{"a": "it\'s", "b": -1.5, "c": {"x": [1, true, null]}, "d": "[)"}')],
        ),
        ("[f(), g(a=open('x'))]", [Call("f"), Arguments("{}"), Text(", g(a=open('x'))]")]),
        *[
            (text, [Text(text)])
            for text in (
                "[f(1)]",
                "[f(a=b)]",
                "[f(a={1})]",
                "[f(a=1, a=2)]",
                "[f(a=1e999)]",
                "[1, 2]",
                "[f(a=(]",
                "f()",
            )
        ],
        *[
            (text, [Text(text)])
            for text in ("[f(a=" + "[" * 9999 + "]" * 9999 + ")]", "[f(a='\\ud800')]", "[f(a=\x00)]")
        ],
        ('[f(a="\\ud83d\\ude42\\/")]', [Call("f"), Arguments('{"a": "🙂/"}')]),
    ],
)
def test_pythonic(text: str, pieces: list[Piece]) -> None:
    assert pieces_of(of("pythonic"), text) == pieces


@pytest.mark.parametrize(
    ("marks", "opened", "text", "pieces"),
    [
        ("qwen3", False, "<think>\nHm.\n</think>\n\nYes.", [Reasoning("Hm."), Text("Yes.")]),
        ("qwen3", True, "Hm.</think>Yes.\n", [Reasoning("Hm."), Text("Yes.\n")]),
        ("qwen3", True, "<think>Hm.</think>Yes.", [Reasoning("Hm."), Text("Yes.")]),
        ("qwen3", False, "<think>\n\n</think>\n\nYes.", [Text("Yes.")]),
        ("qwen3", False, "<think>Hm. </thin", [Reasoning("Hm. </thin")]),
        ("qwen3", False, " Use <think> and </think>.", [Text(" Use <think> and </think>.")]),
        ("deepseek-r1", False, "Hm.</think>Yes.", [Reasoning("Hm."), Text("Yes.")]),
        ("magistral", False, "[THINK]Hm.[/THINK]Yes.", [Reasoning("Hm."), Text("Yes.")]),
        (
            "qwen3",
            False,
            f"<think>{HERMES}</think>{HERMES}",
            [Reasoning(HERMES), Call("f"), Arguments('{"a": "x"}')],
        ),
    ],
)
def test_reasoning(marks: str, opened: bool, text: str, pieces: list[Piece]) -> None:
    assert pieces_of(of("hermes", thinks=marks, opened=opened), text) == pieces


def test_arguments_are_handed_on_as_they_come() -> None:
    reader = Reader(of("hermes"))
    assert reader.push('<tool_call>{"name": "f", "arguments": {"a"') == [Call("f"), Arguments('{"a"')]
    assert reader.push(': "x') == [Arguments(': "x')]
    assert reader.push('"}}') == [Arguments('"}')]


def test_long_answers_are_read_in_linear_time() -> None:
    """By what is held, not by a clock."""
    source = Source()
    reading = FORMATS["hermes"].read(source, NAMES)
    for text in ("word " * 10, *['<tool_call>{"name": "f", "arguments": {"a": "'], *["x" * 50] * 200):
        source.feed(text)
        for piece in reading:
            if piece is None:
                break
        assert len(source.held) < 100
