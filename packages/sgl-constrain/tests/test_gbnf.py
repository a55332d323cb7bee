# SPDX-License-Identifier: Apache-2.0
"""Grammars in GBNF: against `re` where they are regular, against `json` and by hand where they are not."""

from __future__ import annotations

import importlib
import json
import random
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_constrain import Compiler, Grammar, GrammarTooLarge, InvalidGrammar, Limits
from sgl_constrain.gbnf import is_gbnf

JSON = r"""
# a JSON value, as llama.cpp's own example has it in spirit
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws

object ::= "{" ws (
             string ":" ws value
             ("," ws string ":" ws value)*
           )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [1-9] [0-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""

REGULAR = [
    ('root ::= "a" | "b" [c-e]*', r"a|b[c-e]*"),
    ('root ::= x{2} x{1,} y{0,2}\nx ::= "a"\ny ::= [^a]', r"a{2}a+[^a]{0,2}"),
    ('root ::= "a"\n  \n# nothing\n\nother ::= root', "a"),
    ('root ::= ("a" |\n "b")+ # tail', "(a|b)+"),
    ('root ::= "\\x41\\u00e9\\U0001F600\\n" | [\\]\\-^] | ""', "Aé😀\n|[\\]^-]|"),
    ("root ::= . .?", "(?s:..?)"),
    ('root ::= "a" root | "b"', "a*b"),
    ('root ::= [a-]+ | ["x]', r'[a-]+|["x]'),
    ('root::="a"|\n"b"', "a|b"),
    ('root ::= "x"{0} "y"', "y"),
    ("root ::= opt opt\nopt ::= [a]?", "a?a?"),
]


@pytest.mark.parametrize(("source", "pattern"), REGULAR)
def test_regular_grammars_are_their_patterns(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], source: str, pattern: str
) -> None:
    grammar = compiler.gbnf(source)
    rng = random.Random(source)
    texts = ["", "a", "b", "aa", "ab", "bcd", "Aé😀\n", "]", "-", "^", "y", "xy", '"', "\n"]
    texts += ["".join(rng.choices('abcdexy-"\n', k=rng.randint(1, 5))) for _ in range(300)]
    for text in texts:
        assert accepts(grammar, text) == bool(re.fullmatch(pattern, text)), text


def test_recursion_is_balanced(compiler: Compiler, accepts: Callable[[Grammar, str], bool]) -> None:
    grammar = compiler.gbnf('root ::= "(" root ")" root | ""')
    assert accepts(grammar, "(()(()))()") and accepts(grammar, "(" * 300 + ")" * 300)
    assert not accepts(grammar, "(()") and not accepts(grammar, "())")
    palindromes = compiler.gbnf("root ::= [a] root [a] | [b] root [b] | [ab]?")
    assert accepts(palindromes, "abbabba") and not accepts(palindromes, "abbabbb")


def test_a_grammar_of_json_writes_json(
    compiler: Compiler,
    accepts: Callable[[Grammar, str], bool],
    random_text: Callable[[Grammar, random.Random], str],
) -> None:
    grammar = compiler.gbnf(JSON)
    assert accepts(grammar, '{"a": [1, -2.5e3, {"b": null}],\n\t"c": "\\u00e9"}')
    assert not accepts(grammar, '{"a": [1,]}') and not accepts(grammar, "[]")
    rng = random.Random(3)
    for _ in range(10):
        assert isinstance(json.loads(random_text(grammar, rng)), dict)


@pytest.mark.parametrize(
    ("source", "message", "where"),
    [
        ("", "no rule named 'root', where every text begins", (1, 1)),
        ("# nothing\n", "no rule named 'root'", (1, 1)),
        ('other ::= "a"', "no rule named 'root'", (1, 1)),
        ('root ::= "a"\n\nroot ::= "b"', "'root' is defined twice: join", (3, 1)),
        ('root ::= "a"\nx ::= missing', "'missing' is not defined", (2, 7)),
        ('root ::= nmuber\nnumber ::= "1"', "'nmuber' is not defined: did you mean 'number'", (1, 10)),
        ("root ::= root", "left recursion: root -> root; write what repeats as", (1, 1)),
        ('root ::= a "x"\na ::= b? c\nb ::= "b"\nc ::= [c]* root', "recursion: a -> c -> root -> a", (2, 1)),
        ('root ::= "q" x | y root "a"\nx ::= ""\ny ::= x', "left recursion: root -> root;", (1, 1)),
        ('root ::= "b"\n   "a', "expected the name of a rule", (2, 4)),
        ('root ::= "b" |\n   "a', "never closed", (2, 4)),
        ("root ::= [a", "never closed: expected ]", (1, 10)),
        ('root ::= "\\x4"', r"\\x is followed by 2 hexadecimal", (1, 11)),
        ('root ::= "\\U00110000"', r"\\U is followed by 8 hexadecimal digits of a character", (1, 11)),
        ('root ::= "ab\\', r"unknown escape \\", (1, 13)),
        ("root ::= [xb-a]", "a range counts backwards", (1, 12)),
        ('root ::= "ab\\q"', r"unknown escape \\q: write", (1, 13)),
        ("root ::= (", r"expected '\)', not the end", (1, 11)),
        ('root ::= ("a"\n ]', r"expected '\)', not '\]'", (2, 2)),
        ('root ::= "a" )', r"unexpected '\)'", (1, 14)),
        ('root ::= "a"{x}', r"expected \{m\}", (1, 13)),
        ('root ::= "a"{' + "9" * 5000 + "}", r"expected \{m\}", (1, 13)),
        ('root ::= "a"{3,2}', "backwards", (1, 13)),
        ('root ::= "a"{2000000}', "more than 1000000 times", (1, 13)),
        ("root = 1", "expected '::='", (1, 6)),
        ("::= x", "expected the name", (1, 1)),
        ("root ::= <[12]>", "tokens are not text", (1, 10)),
        ('root ::= "a" root', "no text matches", (1, None)),
        ("root ::= [\\ud800]", "no text matches", (1, None)),
        ("root ::= []", "no text matches", (1, None)),
    ],
)
def test_what_is_no_grammar_is_refused(
    compiler: Compiler, source: str, message: str, where: tuple[int, int | None]
) -> None:
    with pytest.raises(InvalidGrammar, match=message) as caught:
        compiler.gbnf(source)
    assert (caught.value.line, caught.value.column) == where
    assert f"line {where[0]}" in str(caught.value)


LIST = r"""
root ::= item+
# Excludes various line break characters
item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
"""
ARITHMETIC = r"""
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
CHESS = r"""
root    ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
move    ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
"""
JAPANESE = r"""
root        ::= jp-char+ ([ \t\n] jp-char+)*
jp-char     ::= hiragana | katakana | punctuation | cjk
hiragana    ::= [ぁ-ゟ]
katakana    ::= [ァ-ヿ]
punctuation ::= [、-〾]
cjk         ::= [一-鿿]
"""
CALLS = r"""
root      ::= statement (newline statement)* newline?
statement ::= name "(" [ ]? (argument ("," [ ]? argument){0,3})? ")"
argument  ::= string | integer | name | "[" (argument ("," argument)*)? "]"
name      ::= [a-z_] [a-z_0-9]{0,15}
integer   ::= "-"? ("0" | [1-9] [0-9]*)
string    ::= "'" ([^'\\\n] | "\\" [^\n])* "'"
newline   ::= "\r"? "\n"
"""
WRITTEN_LIKE_LLAMA_CPPS = [
    (JSON, ['{"a": [1, -2.5e3, {"b": null}],\n\t"c": "\\u00e9"}', "{ }"], ['{"a": [1,]}', "[]", '{"a":01}']),
    (LIST, ["- a\n- é b\n"], ["- \n", "- a", "* a\n", "- a\u2028\n"]),
    (ARITHMETIC, ["a_1 +2*(3 -x)= 42\n", "1=1\n\n2 /3 =\ty \n"], ["1+=2\n", "1=1", "(1=1\n"]),
    (
        CHESS,
        ["1. e4 e5\n2. Nf3 Nc6\n", "1. d4 d5\n2. exd8=Q+ O-O-O#\n"],
        ["1. e4 e5\n", "1. e9 e5\n2. a1 a1\n"],
    ),
    (JAPANESE, ["これは、カタカナ。 漢字", "あ\nい"], ["a", "あ ", "あa"]),
    (CALLS, ["f()", "g_1( 'a\\'b', [-10,[x]], 0)\r\nh(y)\n"], ["f(01)", "f('a'", "f(a,b,c,d,e)", "1f()"]),
]


@pytest.mark.parametrize(("source", "good", "bad"), WRITTEN_LIKE_LLAMA_CPPS)
def test_grammars_as_llama_cpp_publishes_them(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], source: str, good: list[str], bad: list[str]
) -> None:
    grammar = compiler.gbnf(source)
    assert [text for text in good if not accepts(grammar, text)] == []
    assert [text for text in bad if accepts(grammar, text)] == []


@pytest.mark.parametrize(("source", "good", "bad"), WRITTEN_LIKE_LLAMA_CPPS)
def test_the_language_is_that_of_xgrammar(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], source: str, good: list[str], bad: list[str]
) -> None:
    pytest.importorskip("xgrammar")
    testing = importlib.import_module("xgrammar.testing")
    theirs = importlib.import_module("xgrammar").Grammar.from_ebnf(source.replace("::= |", '::= "" |'))
    ours = compiler.gbnf(source)
    rng = random.Random(source)
    for text in good + bad:
        for _ in range(40):  # beside the language by a character or two
            data = list(text)
            for _ in range(rng.randint(0, 2)):
                at = rng.randrange(len(data) + 1)
                data[at : at + rng.randint(0, 1)] = rng.choice(["", *"a1-.,()[]{}'\"\\ \n=+O:あ"])
            changed = "".join(data)
            expected = testing._is_grammar_accept_string(theirs, changed)
            assert accepts(ours, changed) == expected, changed


@st.composite
def regular(draw: st.DrawFn, depth: int = 3) -> tuple[str, str]:
    """The same language as GBNF and as a regular expression."""
    kind = draw(st.sampled_from(["text", "set", "any", "rule"] + ["cat", "or", "times"] * (depth > 0)))
    if kind == "text":
        text = draw(st.text(alphabet='ab"\\\né😀', max_size=3))
        return json.dumps(text, ensure_ascii=False), re.escape(text)
    if kind == "set":
        members = draw(st.text(alphabet="abc]^-\\é", min_size=1, max_size=3))
        escaped = "".join("\\" + c if c in "]^-\\" else c for c in members)
        sign = draw(st.sampled_from(["", "^"]))
        return f"[{sign}{escaped}]", f"[{sign}{escaped}]"
    if kind == "any":
        return ".", r"[\s\S]"
    if kind == "rule":
        return draw(st.sampled_from([("r1", "(?:a|bc)*"), ("r-2", "(?:é|)")]))
    parts = draw(st.lists(regular(depth=depth - 1), min_size=1, max_size=3))
    if kind == "cat":
        return f"({' '.join(g for g, _ in parts)})", f"(?:{''.join(r for _, r in parts)})"
    if kind == "or":
        return f"({' | '.join(g for g, _ in parts)})", f"(?:{'|'.join(r for _, r in parts)})"
    sign = draw(st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}"]))
    return f"({parts[0][0]}){sign}", f"(?:{parts[0][1]}){sign}"


@given(regular(), st.lists(st.text(alphabet='abc"\\\né😀]^-', max_size=6), max_size=30))
def test_random_regular_grammars_are_their_patterns(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], pair: tuple[str, str], texts: list[str]
) -> None:
    source, pattern = pair
    grammar = compiler.gbnf(f'root ::= {source}\nr1 ::= | ("a" | "b" "c") r1\nr-2 ::= "é"?')
    for text in texts:
        assert accepts(grammar, text) == bool(re.fullmatch(pattern, text)), text


@given(st.text(alphabet='root:=|"[]()*+?{}1,2 \n\\x<#.-^', max_size=40) | st.text(max_size=30))
def test_any_text_is_a_grammar_or_refused(compiler: Compiler, source: str) -> None:
    for text in (source, "root ::= " + source):
        try:
            compiler.gbnf(text)
        except InvalidGrammar as error:
            lines = text.split("\n")
            assert 1 <= error.line <= len(lines)
            assert error.column is None or 1 <= error.column <= len(lines[error.line - 1]) + 1


def test_hostile_grammars_stay_inside_their_limits(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    with pytest.raises(GrammarTooLarge):
        compiler.gbnf("root ::= " + "(" * 300)
    ambiguous = compiler.gbnf('root ::= "a" root | "a" "a" root | x x? | "a"\nx ::= "a" | "a" x')
    assert accepts(ambiguous, "a" * 200)
    assert not is_gbnf("#" * 100_000) and not is_gbnf("# //" * 50_000 + "\nstart: a")
    assert is_gbnf("# ...\n\n// :\n  root ::= a")
    with pytest.raises(InvalidGrammar, match="not defined"):
        compiler.gbnf("root ::= " + " ".join(f"u{i}" for i in range(5000)))
    forward = "\n".join(f'r{i} ::= "x"? r{i + 1}' for i in range(3000))
    assert accepts(
        Compiler(compiler.vocabulary, limits=Limits(items=40_000)).gbnf(
            f'root ::= "a" | "b" r0\n{forward}\nr3000 ::= ""'
        ),
        "a",
    )
    nested = "root ::= " + '"a" (' * 79 + '"b"' + ")" * 79
    assert accepts(compiler.gbnf(nested), "a" * 79 + "b")
    chain = "\n".join(f"r{i} ::= r{i + 1} | [{chr(97 + i % 26)}] r{i + 1}" for i in range(400))
    long = compiler.gbnf(f'root ::= r0\n{chain}\nr400 ::= "."')
    assert accepts(long, "abc.") and not accepts(long, "abc")
