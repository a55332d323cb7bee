# SPDX-License-Identifier: Apache-2.0
"""Constraints over real tokenizers: what their grammars allow, and the tokens of text that is forced."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from sgl_constrain import ConstrainError, Matcher

from sgl_runtime.messages import Constraint
from sgl_runtime.text.constraints import byte_compiler, compile_constraint, token_compiler
from sgl_runtime.text.tokenizer import Tokenizer, load_tokenizer

PIECES = [' "name": "', "'s", " x", "\n  ", "中文", "🙂", '"}', "12", "don't", " ", "é", "\t"]


def test_special_tokens_and_ids_beyond_the_tokenizer_are_never_allowed(smollm: Tokenizer) -> None:
    size = len(smollm.vocabulary) + 40
    (end,) = {smollm.token_id("<|im_end|>")} - {None}
    compiler = token_compiler(smollm, eos=[end], vocab_size=size)
    grammar = compile_constraint(compiler, Constraint("regex", r"(?s:.)*"))
    allowed = np.flatnonzero(np.unpackbits(grammar.mask(grammar.start).view(np.uint8), bitorder="little"))
    assert end in allowed and not (smollm.special - {end}) & set(allowed.tolist())
    assert allowed.max() < len(smollm.vocabulary) and len(allowed) > 48_000


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (Constraint("regex", r"\d{3}-(ab|中)+"), "123-ab中"),
        (Constraint("json_schema", '{"type":"array","items":{"enum":[1,"中"]}}'), '[1, "中"]'),
        (Constraint("ebnf", 'root ::= "a" root | "b"'), "aab"),
        (Constraint("ebnf", 'start: "a" start | "b"'), "aab"),
    ],
)
def test_every_kind_compiles_over_bytes_and_over_tokens(
    smollm: Tokenizer, constraint: Constraint, text: str
) -> None:
    compile_constraint(byte_compiler(), constraint)
    compiler = token_compiler(smollm, eos=[2], vocab_size=len(smollm.vocabulary))
    matcher = Matcher(compile_constraint(compiler, constraint))
    tokens = smollm.encode_part(text.encode())
    assert matcher.accept_tokens(tokens) == len(tokens) and matcher.is_complete()


@pytest.mark.parametrize("kind", ["regex", "json_schema", "ebnf"])
def test_what_is_wrong_is_said(kind: str) -> None:
    with pytest.raises(ConstrainError):
        compile_constraint(byte_compiler(), Constraint(kind, "("))  # type: ignore[arg-type]


def test_a_part_of_a_text_is_written_as_it_is(smollm: Tokenizer, folders: dict[str, Path]) -> None:
    """Whatever the tokenizer puts in front of whole texts. Some cannot spell every text: then it is none."""
    rng = random.Random(3)
    loaded = {kind: load_tokenizer(folder) for kind, folder in folders.items()}
    for kind, tokenizer in {"smollm": smollm, **loaded}.items():
        for _ in range(100):
            text = "".join(rng.choices(PIECES, k=3)).encode()
            written = tokenizer.vocabulary.join(tokenizer.encode_part(text))
            assert written == text or (written == b"" and "metaspace" in kind)


def test_special_tokens_are_not_taken_out_of_a_part(smollm: Tokenizer) -> None:
    assert smollm.encode_part(b"a<|im_end|>") == []


def test_the_readme_of_the_seed_jumps_over_its_keys(smollm: Tokenizer) -> None:
    pattern = r'\{\n "name": "[\w\d\s]{1,16}",\n "house": "(格兰芬多|斯莱特林)"\n\}'
    compiler = token_compiler(smollm, eos=[2], vocab_size=len(smollm.vocabulary))
    matcher = Matcher(compile_constraint(compiler, Constraint("regex", pattern)))
    jump = matcher.jump_forward_tokens(smollm.encode_part)
    assert smollm.vocabulary.join(jump.tokens) == b'{\n "name":'  # ` "` may become one token with the name
    assert matcher.accept_bytes(b'{\n "name": "Harry"')
    jump = matcher.jump_forward_tokens(smollm.encode_part)
    assert re.match(rb',\n "house":', smollm.vocabulary.join(jump.tokens))
