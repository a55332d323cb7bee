# SPDX-License-Identifier: Apache-2.0
"""Grammars in GBNF: against `re` where they are regular, against `json` and by hand where they are not."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

import pytest

from sgl_constrain import Compiler, Grammar, GrammarTooLarge, InvalidGrammar

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
    ("source", "message", "line"),
    [
        ("", "no rule named 'root'", 1),
        ('other ::= "a"', "no rule named 'root'", 1),
        ('root ::= "a"\n\nroot ::= "b"', "defined twice", 3),
        ('root ::= "a"\nx ::= missing', "'missing' is not defined", 2),
        ("root ::= root", "left recursion: root -> root", 1),
        (
            'root ::= a "x"\na ::= b? c\nb ::= "b"\nc ::= [c]* root',
            "left recursion: a -> c -> root -> a",
            1,
        ),
        ('root ::= "a', "unterminated", 1),
        ("root ::= [a", "unterminated", 1),
        ("root ::= [b-a]", "backwards", 1),
        ('root ::= "\\q"', "unknown escape", 1),
        ('root ::= "\\x4"', "bad escape", 1),
        ("root ::= (", r"expected '\)'", 1),
        ('root ::= "a" )', "unexpected", 1),
        ('root ::= "a"{x}', r"expected \{m\}", 1),
        ('root ::= "a"{3,2}', "backwards", 1),
        ("root = 1", "expected '::='", 1),
        ("::= x", "expected the name", 1),
        ("root ::= <[12]>", "tokens are not text", 1),
        ('root ::= "a" root', "no text matches", 1),
        ("root ::= [\\ud800]", "no text matches", 1),
    ],
)
def test_what_is_no_grammar_is_refused(compiler: Compiler, source: str, message: str, line: int) -> None:
    with pytest.raises(InvalidGrammar, match=message) as caught:
        compiler.gbnf(source)
    assert caught.value.line == line


def test_hostile_grammars_stay_inside_their_limits(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    with pytest.raises(GrammarTooLarge):
        compiler.gbnf("root ::= " + "(" * 300)
    ambiguous = compiler.gbnf('root ::= "a" root | "a" "a" root | x x? | "a"\nx ::= "a" | "a" x')
    assert accepts(ambiguous, "a" * 200)
    chain = "\n".join(f"r{i} ::= r{i + 1} | [{chr(97 + i % 26)}] r{i + 1}" for i in range(400))
    long = compiler.gbnf(f'root ::= r0\n{chain}\nr400 ::= "."')
    assert accepts(long, "abc.") and not accepts(long, "abc")
