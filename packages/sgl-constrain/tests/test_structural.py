# SPDX-License-Identifier: Apache-2.0
"""Structural tags: against xgrammar where it is installed, and by hand."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from sgl_constrain import Compiler, ConstrainError, Grammar, InvalidSchema, UnsupportedSchema
from sgl_constrain.structural import structural_tag

INTEGER = {"type": "json_schema", "json_schema": {"type": "integer"}}
A = {"type": "tag", "begin": "<f=a>", "content": INTEGER, "end": "</f>"}
B = {
    "type": "tag",
    "begin": "<f=b>",
    "content": {"type": "regex", "pattern": r"x/?y\n"},
    "end": ["</f>", "."],
}
C = {"type": "tag", "begin": "[c]", "content": {"type": "any_text"}, "end": "[/c]"}
OLD = {
    "structures": [
        {"begin": "<f=a>", "schema": {"enum": ["x", 1]}, "end": "</f>"},
        {
            "begin": "<f=b>",
            "schema": {"type": "object", "properties": {"k": {"type": "null"}}},
            "end": "</f>",
        },
        {"begin": "<<g>", "schema": {"type": "boolean"}, "end": "<"},
    ],
    "triggers": ["<f=", "<<g"],
}


def new(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "structural_tag", "format": {"type": kind, **fields}}


TAGS = {
    "old": (
        OLD,
        ['hi <f<<g>true< x <f=a>"x"</f>', '<f=b>{"k":null}</f>', ""],
        ["<f=c>", "<f=a>2</f>", "<<gtrue"],
    ),
    "triggered": (
        new("triggered_tags", triggers=["<f=", "["], tags=[A, B, C]),
        ["a<f=a>1</f>b[c]<f=a>x[/[/c]", "<f=b>xy\n.<f=b>x/y\n</f>", "<f"],
        ["[", "[c]", "<f=", "<f=a>1"],
    ),
    "at least one": (
        new("triggered_tags", triggers=["<f"], tags=[A], at_least_one=True),
        ["<f=a>1</f>", "<f=a>1</f> and <f=a>2</f><"],
        ["", " <f=a>1</f>", "<f=a>1</f> <f=b>"],
    ),
    "one": (
        new("triggered_tags", triggers=["<"], tags=[A], stop_after_first=True),
        ["", "x", "x<f=a>1</f>"],
        ["<f=a>1</f>x", "<"],
    ),
    "exactly one": (
        new("triggered_tags", triggers=["<"], tags=[A], stop_after_first=True, at_least_one=True),
        ["<f=a>1</f>"],
        ["", "x<f=a>1</f>", "<f=a>1</f>x"],
    ),
    "excludes": (
        new("triggered_tags", triggers=["<f"], tags=[A], excludes=["aba", "<g"]),
        ["ab<f=a>1</f>a", "abba"],
        ["abaa", "ababa", "x<g"],
    ),
    "separated": (
        new("tags_with_separator", tags=[A, C], separator=", "),
        ["", "<f=a>1</f>", "[c][c][/c], <f=a>-2</f>"],
        [", ", "<f=a>1</f>,", "<f=a>1</f><f=a>1</f>"],
    ),
    "separated once": (
        new("tags_with_separator", tags=[A], separator=",", at_least_one=True, stop_after_first=True),
        ["<f=a>1</f>"],
        ["", "<f=a>1</f>,<f=a>1</f>"],
    ),
    "reasoning first": (
        new(
            "sequence",
            elements=[
                {"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"},
                {"type": "optional", "content": {"type": "const_string", "value": '\n\n"\\'}},
                {"type": "or", "elements": [A, {"type": "const_string", "value": "none é"}]},
            ],
        ),
        ["<think>hm</thin</think>none é", '<think></think>\n\n"\\<f=a>7</f>'],
        ["<think>x", "none é", "<think></think></think>none é"],
    ),
    "counted": (
        new(
            "sequence",
            elements=[
                {"type": "star", "content": {"type": "regex", "pattern": "[ab]"}},
                {"type": "plus", "content": {"type": "const_string", "value": "c"}},
                {"type": "repeat", "min": 1, "max": 2, "content": {"type": "const_string", "value": "d"}},
                {"type": "repeat", "min": 0, "max": -1, "content": {"type": "const_string", "value": "e"}},
            ],
        ),
        ["abccd", "cddee"],
        ["abd", "cddd", "c"],
    ),
    "free text": (new("any_text", excludes=["bad", "ad "]), ["", "ba d", "bbab"], ["bad", "xbad", "mad x"]),
}


@pytest.mark.parametrize("name", TAGS)
def test_texts_in_and_outside_of_a_tag(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], name: str
) -> None:
    tag, good, bad = TAGS[name]
    grammar = compiler.lark(structural_tag(json.dumps(tag)))
    assert structural_tag(tag) == structural_tag(json.dumps(tag))
    assert [text for text in good if not accepts(grammar, text)] == []
    assert [text for text in bad if accepts(grammar, text)] == []


@pytest.mark.parametrize("name", TAGS)
def test_the_texts_are_those_of_xgrammar(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], name: str
) -> None:
    xgrammar = pytest.importorskip("xgrammar")
    tag, good, bad = TAGS[name]
    if tag is OLD:
        items = [
            xgrammar.StructuralTagItem(begin=s["begin"], schema=json.dumps(s["schema"]), end=s["end"])
            for s in OLD["structures"]  # type: ignore[union-attr]
        ]
        theirs = xgrammar.Grammar.from_structural_tag(items, OLD["triggers"])
    else:
        theirs = xgrammar.Grammar.from_structural_tag(tag)
    accepted_by_them = importlib.import_module("xgrammar.testing")._is_grammar_accept_string
    ours = compiler.lark(structural_tag(tag))
    rng = random.Random(name)
    for text in good + bad:
        for _ in range(30):
            data = list(text)
            for _ in range(rng.randint(0, 2)):
                at = rng.randrange(len(data) + 1)
                data[at : at + rng.randint(0, 1)] = rng.choice(["", *"<f=a>1[c]/ xbd."])
            changed = "".join(data)
            assert accepts(ours, changed) == accepted_by_them(theirs, changed), changed


def test_compact_tags_have_no_blanks(compiler: Compiler, accepts: Callable[[Grammar, str], bool]) -> None:
    loose, tight = (compiler.lark(structural_tag(OLD, compact=compact)) for compact in (False, True))
    assert accepts(loose, '<f=b>{ "k": null }</f>') and not accepts(tight, '<f=b>{ "k": null }</f>')
    assert accepts(tight, '<f=b>{"k":null}</f>')
    anything = new("json_schema", json_schema=True)
    assert accepts(compiler.lark(structural_tag(anything, compact=True)), '{"a":[1]}')


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("{", "a structural tag is JSON"),
        ("[" * 100_000, "a structural tag is JSON"),
        ([1], "has a `format`, or `structures` and `triggers`"),
        ({"structures": 1, "triggers": []}, "`structures` must be a list"),
        ({"structures": [], "triggers": []}, "`tags` must not be empty"),
        ({**OLD, "triggers": ["<f="]}, "no trigger is the beginning of '<<g>'"),
        ({**OLD, "triggers": ["", "<"]}, "must not be empty"),
        ({**OLD, "trigger": 1}, "'trigger': this field is not supported"),
        (
            {"structures": [{"begin": 1, "end": "", "schema": {}}], "triggers": ["a"]},
            "`begin` must be a string",
        ),
        ({"structures": [{"begin": "a", "schema": {}}], "triggers": ["a"]}, "`end` must be a"),
        (new("token", token=5), r"'token': this format is not supported, but any_text, .*\(at /format\)"),
        (new("any_text", max_tokens=5), "'max_tokens': only None is supported"),
        (new("json_schema", json_schema={}, style="qwen_xml"), "'style': only 'json' is supported"),
        (new("json_schema", json_schema={}, excludes=["a"]), "'excludes': nothing can be excluded"),
        (new("json_schema", json_schema="x"), "must be a mapping or a boolean"),
        (new("tag", begin={"type": "token"}, content=INTEGER, end=""), "`begin` must be a string"),
        (new("or", elements=[INTEGER, {"type": "x"}]), r"\(at /format/elements/1\)"),
        (new("repeat", min=2, max=1, content=INTEGER), "`min` and `max` must be counts"),
        (new("star"), r"must be a mapping \(at /format/content\)"),
        (new("regex", patern="a"), "'patern': this field is not supported"),
    ],
)
def test_what_is_no_tag_is_refused(tag: Any, message: str) -> None:
    with pytest.raises(InvalidSchema, match=message):
        structural_tag(tag)


def test_tags_nested_too_deeply_are_refused() -> None:
    node: dict[str, Any] = {"type": "any_text"}
    for _ in range(400):
        node = {"type": "optional", "content": node}
    with pytest.raises(InvalidSchema, match="nested too deeply"):
        structural_tag({"format": node})


def test_what_is_wrong_inside_a_tag_is_refused_when_it_is_compiled(compiler: Compiler) -> None:
    with pytest.raises(UnsupportedSchema, match="uniqueItems"):
        compiler.lark(structural_tag(new("json_schema", json_schema={"uniqueItems": True})))
    with pytest.raises(ConstrainError, match="backreference"):
        compiler.lark(structural_tag(new("regex", pattern=r"(a)\1")))
