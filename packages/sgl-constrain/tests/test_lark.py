# SPDX-License-Identifier: Apache-2.0
"""Grammars in Lark's notation: against Lark itself where it is installed, and by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from sgl_constrain import (
    Compiler,
    ConstrainError,
    Grammar,
    GrammarTooLarge,
    InvalidGrammar,
    UnsupportedSchema,
)

ARITHMETIC = r"""
?start: sum            // a comment
sum: product (("+" | "-") product)*
?product: atom (("*" | "/") atom)* -> product
atom: NUMBER           -> number
    | "-" atom         -> negation
    | "(" sum ")"
%import common.NUMBER
%import common.WS_INLINE -> BLANK
%ignore BLANK
"""
STATEMENTS = r"""
start: statement+
statement: NAME "=" value ";" | "print"i "(" [value ("," value)*] ")" ";"
value: NAME | STRING | /0x[0-9a-f]+/i | "#" HEX~6 | list
list: "[" (value ("," value) ~ 0..2)? "]"
NAME.2: LETTER (LETTER | DIGIT)*
LETTER: "a".."c" | "_"
DIGIT: /[0-9]/
HEX: DIGIT | "a".."f"
STRING: "'" /[^'\n]/* "'"
%ignore /[ \n]+/
%ignore "/*" /[a-z ]/* "*/"
"""
CASES = [
    (ARITHMETIC, "1+2 -(3*4)/.5e3"),
    (STATEMENTS, "a_1 = 'x y'; PRINT(b, 0xFf, #00ff1a); c=[a, [], 0x1];/* no */"),
]


@pytest.mark.parametrize(("source", "text"), CASES)
def test_the_language_is_that_of_lark(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], source: str, text: str
) -> None:
    lark = pytest.importorskip("lark")
    parser = lark.Lark(source, parser="earley", lexer="dynamic_complete", maybe_placeholders=False)
    grammar = compiler.lark(source)
    rng = random.Random(source)
    texts = [text]
    for _ in range(150):  # texts a little beside the language
        data = list(text[: rng.randint(1, 24)])
        for _ in range(rng.randint(0, 2)):
            data[rng.randrange(len(data))] = rng.choice(" a1+-*/();=[]'#,x")
        texts.append("".join(data))
    for changed in texts:
        try:
            parser.parse(changed)
            expected = True
        except lark.exceptions.LarkError:
            expected = False
        assert accepts(grammar, changed) == expected, changed


@pytest.mark.parametrize(
    ("source", "good", "bad"),
    [
        (ARITHMETIC, ["1", " 1 + 2*(3 - -4) ", "1.5e3/.5"], ["", "1+", "(1", "1 2", "1e"]),
        (
            STATEMENTS,
            ["a=b;", "print();pRiNt ( a , 'b' ) ; /* x */"],
            ["d=a;", "a=[a,a,a,a];", "a=#12345;", "A=a;"],
        ),
        ('start: A{2} b+\nA: "x"\n\nb: "y"\n', ["xxy", "xxyyy"], ["xy", "xx"]),
        ('start: "a" | // nothing\n  | "b"', ["a", "", "b"], ["ab"]),
        (r'start: "\x41\u00e9\n\"" /\//', ['Aé\n"/'], ["A"]),
        ("start: INT\n%import common (INT, WS)\n%ignore WS", ["12", " 12\n"], ["1 2"]),
        ('start: "<" %json {"type": "integer", "minimum": 1} ">"', ["<12>"], ["<0>", "<>"]),
        ("start: ESCAPED_STRING\n%import common.ESCAPED_STRING", [r'"a\"b"'], [r'"a\"', '"a"b"']),
    ],
)
def test_texts_in_and_outside_of_the_language(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], source: str, good: list[str], bad: list[str]
) -> None:
    grammar = compiler.lark(source)
    for text in good:
        assert accepts(grammar, text), text
    for text in bad:
        assert not accepts(grammar, text), text


def test_a_schema_inside_a_grammar_writes_json(
    compiler: Compiler, random_text: Callable[[Grammar, random.Random], str]
) -> None:
    grammar = compiler.lark('start: "call " %json {"type": "object", "required": ["x"]} "!"')
    for seed in range(5):
        text = random_text(grammar, random.Random(seed))
        assert "x" in json.loads(text.removeprefix("call ").removesuffix("!"))


@pytest.mark.parametrize(
    ("source", "message", "line"),
    [
        ("", "no rule named 'start'", 1),
        ('start: "a"\nstart: "b"', "defined twice", 2),
        ("start: other", "'other' is not defined", 1),
        ('start: start "a" | "b"', "left recursion: start -> start", 1),
        ('start: "a', "unexpected", 1),
        ('start: ("a"', r"expected '\)'", 1),
        ('start: pair{"a"}', "templates", 1),
        ('pair{x}: x\nstart: "a"', "templates", 1),
        ('start: A\nA: b\nb: "x"', "cannot contain the rule 'b'", 2),
        ("start: A\n%declare A", "%declare is not supported", 2),
        ("%import python.NAME\nstart: NAME", "only terminals of 'common'", 1),
        ("%import common.NOPE\nstart: NOPE", "no common.NOPE", 1),
        ("start: <|end|>", "special tokens", 1),
        (r"start: /a(?=b)/", "anchors and lookaheads", 1),
        (r"start: /(a)\1/", "backreference", 1),
        ('start: "ab".."c"', "range", 1),
        ('start: "a"~3..2', "counted", 1),
        ("start: /a/l", "flag l", 1),
        ("start: %json {", "%json", 1),
        ("start = 1", "expected a rule", 1),
        ('start: "a" start', "no text matches", 1),
    ],
)
def test_what_is_no_grammar_is_refused(compiler: Compiler, source: str, message: str, line: int) -> None:
    with pytest.raises(InvalidGrammar, match=message) as caught:
        compiler.lark(source)
    assert caught.value.line == line


def test_other_refusals(compiler: Compiler) -> None:
    with pytest.raises(UnsupportedSchema):
        compiler.lark('start: %json {"uniqueItems": true}')
    with pytest.raises(GrammarTooLarge):
        compiler.lark("start: " + "(" * 300)
    assert issubclass(InvalidGrammar, ConstrainError)
