# SPDX-License-Identifier: Apache-2.0
"""Grammars in Lark's notation: against Lark itself where it is installed, and by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_constrain import (
    Compiler,
    ConstrainError,
    Grammar,
    GrammarTooLarge,
    InvalidGrammar,
    UnsupportedSchema,
)
from sgl_constrain.lark import _COMMON, _COMMON_SIGNED

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


JSON_CALLS = r"""
%llguidance {}
start: call (";" call)*
call: NAME "(" [%json {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
  "additionalProperties": false, "x-guidance": {"whitespace_flexible": false}}] ")"
NAME: /[a-z]{2,4}/ | "X".."Z"
"""
READ_WITH_A_LEXER = [  # no text here can be cut into terminals in two ways
    (ARITHMETIC, "1+2 -(3*4)/.5e3"),
    (
        'start: pair ("," pair)* ","?\npair: "k"i ":" ("yes" | "no" | INT)\nINT: /[0-9]+/\n',
        "k:yes,K:12,k:no,",
    ),
    (JSON_CALLS, 'ab({"a":-12});X()'),
]


@pytest.mark.parametrize(("source", "text"), READ_WITH_A_LEXER)
def test_the_language_is_that_of_llguidance(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], source: str, text: str
) -> None:
    llguidance = pytest.importorskip("llguidance")
    tokenizer = llguidance.LLTokenizer("byte")
    theirs = llguidance.grammar_from("lark", source)
    ours = compiler.lark(source)
    rng = random.Random(source)
    agreed = 0
    for _ in range(200):
        data = list(text[: rng.choice([len(text), rng.randint(1, len(text))])])
        for _ in range(rng.randint(0, 2)):
            data[rng.randrange(len(data))] = rng.choice(' a1+-*/();,:kKX{}"')
        changed = "".join(data)
        matcher = llguidance.LLMatcher(tokenizer, theirs)
        assert not matcher.get_error()
        tokens = [*changed.encode(), tokenizer.eos_token]
        expected = matcher.validate_tokens(tokens) == len(tokens)
        assert accepts(ours, changed) == expected, changed
        agreed += expected
    assert agreed > 10


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
    ("source", "message", "where"),
    [
        ("", "no rule named 'start', where every text begins", (1, 1)),
        ('start: "a"\nstart: "b"', "defined twice", (2, 1)),
        ("start: other", "'other' is not defined", (1, 8)),
        ("start: NUMBR\nNUMBER: /1/", "did you mean 'NUMBER'", (1, 8)),
        ('start: start "a" | "b"', "left recursion: start -> start; write", (1, 1)),
        ('start: A\nA: B "x"\nB: A?', "left recursion: A -> B -> A", (2, 1)),
        ("start: x x\nx: y\ny: [z]\nz: [x]", "left recursion: x -> y -> z -> x", (2, 1)),
        ('start: "a', "opens what is not closed", (1, 8)),
        ("start: /a", "opens what is not closed", (1, 8)),
        ('start: ("a"', r"expected '\)', not the end", (1, 12)),
        ('start: ("a"\n]', r"expected '\)', not '\]'", (2, 1)),
        ('start: pair{"a"}', "templates", (1, 8)),
        ('pair{x}: x\nstart: "a"', "templates", (1, 1)),
        ("start[max_tokens=5]: /a*/", "attributes of rules are not supported", (1, 1)),
        ("start: A\nA: /a+/ & /b+/", "'&' between terminals", (2, 9)),
        ("start: A\nA: ~/a+/", "'~' between terminals", (2, 4)),
        ('start: A\nA: b\nb: "x"', "cannot contain the rule 'b'", (2, 4)),
        ("start: A\n%declare A", "%declare is not supported", (2, 1)),
        ('%llguidance {"no_forcing": true}\nstart: A', "options of %llguidance", (1, 1)),
        ("%import python.NAME\nstart: NAME", "only terminals of 'common'", (1, 1)),
        ("%import common.NOPE\nstart: NOPE", "no common.NOPE, but CNAME, ", (1, 1)),
        ("start: <|end|>", "special tokens", (1, 8)),
        ('start: "x" /a(?=b)/', "anchors and lookaheads", (1, 12)),
        (r"start: /(a)\1/", "backreference", (1, 8)),
        ('start: "ab".."c"', "a range goes from one character", (1, 8)),
        ('start: "a"~3..2', "counts backwards", (1, 11)),
        ('start: "a"~5000000', "more than 1000000 times", (1, 11)),
        ("start: /a/l", "flag l", (1, 8)),
        ("start: %json {", "expected JSON", (1, 15)),
        ("start: %json " + "9" * 5000, "expected JSON", (1, 8)),
        ('start: %json {"x-guidance": {"lenient": true}}', "only whitespace_flexible", (1, 8)),
        ("start = 1", "expected a rule", (1, 1)),
        ('start: "a" start', "no text matches", (1, None)),
        (r'start: "a\d"', r"unknown escape \\d: write \\\\ for", (1, 10)),
        (r'start: "\x41" | "\u12"', r"unknown escape \\u", (1, 18)),
        (r'start: "\b" | "\v"', r"unknown escape \\b", (1, 9)),
        (r'start: "a".."\/"', r"unknown escape \\/", (1, 14)),
        (r'start: "\ud800"', "no text matches", (1, None)),
    ],
)
def test_what_is_no_grammar_is_refused(
    compiler: Compiler, source: str, message: str, where: tuple[int, int | None]
) -> None:
    with pytest.raises(InvalidGrammar, match=message) as caught:
        compiler.lark(source)
    assert (caught.value.line, caught.value.column) == where


@given(
    st.text(alphabet='start:A=|"[]()*+?{}~1,2. \n\\/%&<#-^', max_size=40)
    | st.text(max_size=30)
    | st.lists(
        st.sampled_from(['"a"', "/b+/", "A", "r", "(", ")", "|", "\n", "%json ", "{}", "~2", "*", "%ignore "])
    ).map(" ".join)
)
def test_any_text_is_a_grammar_or_refused(compiler: Compiler, source: str) -> None:
    for text in (source, f"start: {source}\nA: /a/\nr: A"):
        try:
            compiler.lark(text)
        except InvalidGrammar as error:
            lines = text.split("\n")
            assert 1 <= error.line <= len(lines)
            assert error.column is None or 1 <= error.column <= len(lines[error.line - 1]) + 1
        except UnsupportedSchema:
            assert "%json" in text


def test_how_json_is_written_inside_a_grammar(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    schema = '{"type": "object", "properties": {"a": {"type": "null"}}%s}'
    loose = compiler.lark("%llguidance {}\nstart: %json " + schema % "")
    tight = compiler.lark("start: %json " + schema % ', "x-guidance": {"whitespace_flexible": false}')
    for grammar in (loose, tight):
        assert accepts(grammar, '{"a":null}')
    assert accepts(loose, '{ "a" : null }') and not accepts(tight, '{ "a" : null }')


def test_an_error_in_a_schema_says_where_the_schema_is(compiler: Compiler) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        compiler.lark('start: A\nA: %json {"uniqueItems": true}')
    assert caught.value.__notes__ == ["in the schema of %json at line 2"]


def test_the_common_terminals_are_those_of_lark(
    compiler: Compiler,
    accepts: Callable[[Grammar, str], bool],
    random_text: Callable[[Grammar, random.Random], str],
) -> None:
    lark = pytest.importorskip("lark")
    rng = random.Random(11)
    alphabets = ["019.eE+-", "aZ_0é", '"\\an\n', " \t\f\r\n", "/*#- a\n"]
    wrapped = {"ESCAPED_STRING": '"{}"', "C_COMMENT": "/*{}*/", "SH_COMMENT": "#{}", "SQL_COMMENT": "--{}"}
    for name in _COMMON | _COMMON_SIGNED:
        parser = lark.Lark(f"start: {name}\n%import common.{name}", parser="earley", lexer="dynamic_complete")
        grammar = compiler.lark(f"start: {name}\n%import common.{name}")
        matched = 0
        texts = [random_text(grammar, rng) for _ in range(8)]
        texts += ["".join(rng.choices(rng.choice(alphabets), k=rng.randint(1, 6))) for _ in range(150)]
        if name in wrapped:
            texts += [wrapped[name].format(text) for text in texts]
        for text in texts:
            try:
                parser.parse(text)
                expected = True
            except lark.exceptions.LarkError:
                expected = False
            matched += expected
            assert accepts(grammar, text) == expected, (name, text)
        assert matched >= 8, name


@st.composite
def small_grammar(draw: st.DrawFn) -> str:
    """Rules b and c below start, terminals X and Y, blanks that may be ignored."""
    atoms = {
        "start": ['"a"', "b", "c", "X", "Y"],
        "b": ['"b"', "c", "X", '("a" b)', "[Y]", '"é"i'],
        "c": ['"c"', "Y", '("," start)', "X"],
    }
    lines = []
    for name, choices in atoms.items():
        sequence = st.lists(
            st.tuples(st.sampled_from(choices), st.sampled_from(["", "", "", "?", "*", "~1..2"])),
            min_size=1,
            max_size=3,
        ).map(lambda parts: " ".join(atom + sign for atom, sign in parts))
        options = draw(st.lists(sequence, min_size=1, max_size=2))
        lines.append(f"{name}: {' | '.join(options)}")
    lines += [r"X: /[ab]b?/ | \"xy\"".replace("\\", ""), 'Y: "y" X?']
    return "\n".join(lines + ['%ignore " "'] * draw(st.booleans()))


@settings(max_examples=40)
@given(small_grammar(), st.lists(st.text(alphabet="abcxy,é ", max_size=5), min_size=20, max_size=20))
def test_small_grammars_have_the_language_that_lark_gives_them(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], source: str, texts: list[str]
) -> None:
    lark = pytest.importorskip("lark")
    try:
        grammar = compiler.lark(source)
    except InvalidGrammar as error:
        assert "left recursion" in str(error) or "no text matches" in str(error)
        return
    try:
        parser = lark.Lark(source, parser="earley", lexer="dynamic_complete", maybe_placeholders=False)
    except lark.exceptions.GrammarError as error:  # it wants no two expansions that come out alike
        assert "defined twice" in str(error)
        return
    for text in texts:
        try:
            parser.parse(text)
            expected = True
        except lark.exceptions.LarkError:
            expected = False
        assert accepts(grammar, text) == expected, text


def test_hostile_grammars_stay_inside_their_limits(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    assert accepts(compiler.lark('start: "a" ' + "#" * 100_000), "a")
    assert accepts(compiler.lark('start: "a" ' + "//" * 100_000 + "\n| /b/ #" + "/ #" * 10_000), "b")
    with pytest.raises(InvalidGrammar):
        compiler.lark('start: "' + "\\" * 100_001)
    with pytest.raises(InvalidGrammar, match="left recursion"):
        compiler.lark(
            "start: r0\n" + "\n".join(f"r{i}: X? r{(i + 1) % 3000}" for i in range(3000)) + '\nX: "x"'
        )
    nested = compiler.lark("start: " + '("a" [' * 40 + '"b"' + "])*" * 40)
    assert accepts(nested, "a" * 40 + "b")
    with pytest.raises(GrammarTooLarge):
        compiler.lark("start: " + "[" * 100_000)
    cyclic = compiler.lark(
        'start: %json {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}'
    )
    assert accepts(cyclic, "[" * 500 + "]" * 500)


def test_other_refusals(compiler: Compiler) -> None:
    with pytest.raises(UnsupportedSchema):
        compiler.lark('start: %json {"uniqueItems": true}')
    with pytest.raises(GrammarTooLarge):
        compiler.lark("start: " + "(" * 300)
    assert issubclass(InvalidGrammar, ConstrainError)
