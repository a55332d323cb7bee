# SPDX-License-Identifier: Apache-2.0
"""The logits processor in the real `generate`, on a tiny model with random weights."""

from __future__ import annotations

import inspect
import json
import random
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_constrain import DEAD, DONE, Compiler, ConstrainError, Vocabulary
from sgl_constrain.scores import forbidden
from sgl_constrain.transformers import GrammarLogitsProcessor

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PATTERN = r"(yes|no), \d{2}-é+!"
EOS = 256


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=272,  # wider than the vocabulary, as models pad theirs
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=EOS,
        pad_token_id=EOS,
        bos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler(Vocabulary([*(bytes([b]) for b in range(256)), b"", b"yes", b", "], eos=[EOS]))


def texts(compiler: Compiler, output: Any, prompt: int) -> list[str]:
    return [compiler.vocabulary.join(row[prompt:]).decode() for row in output.tolist()]


@pytest.mark.parametrize("how", [{"do_sample": True}, {"num_beams": 3, "num_return_sequences": 3}, {}])
def test_generated_texts_are_in_the_language(model: Any, compiler: Compiler, how: dict[str, Any]) -> None:
    torch.manual_seed(1)
    prompt = torch.tensor([[65, 66], [67, 68]])
    processor = GrammarLogitsProcessor(compiler.regex(r"(yes|no), \d{2}-é{1,3}!"), beams="num_beams" in how)
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=24,
        logits_processor=transformers.LogitsProcessorList([processor]),
        **how,
    )
    found = texts(compiler, output, prompt=2)
    assert len(found) >= 2
    for text in found:
        assert re.fullmatch(PATTERN, text), text


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": True, "num_return_sequences": 2},
        {"num_beams": 4, "num_return_sequences": 2},
        {"num_beams": 2, "num_return_sequences": 2, "do_sample": True},
    ],
)
def test_each_prompt_of_a_padded_batch_has_its_own_grammar(
    model: Any, compiler: Compiler, how: dict[str, Any]
) -> None:
    torch.manual_seed(2)
    prompt = torch.tensor([[EOS, EOS, 66], [EOS, 67, 68], [69, 70, 71]])  # of one, two and three tokens
    grammars = [compiler.regex(r"(yes|no){1,3}"), None, compiler.json_schema({"enum": [1, "é"]})]
    processor = GrammarLogitsProcessor(grammars, beams="num_beams" in how)
    output = model.generate(
        prompt,
        attention_mask=(prompt != EOS).long(),
        max_new_tokens=20,
        logits_processor=transformers.LogitsProcessorList([processor]),
        **how,
    )
    assert output.shape[0] == 6
    rows = [compiler.vocabulary.join(t for t in row[3:] if t < 259) for row in output.tolist()]
    assert all(re.fullmatch(rb"(yes|no){1,3}", text) for text in rows[:2]), rows
    assert all(json.loads(text) in (1, "é") for text in rows[4:]), rows
    assert not any(re.fullmatch(rb"(yes|no){1,3}", text) for text in rows[2:4]), "nobody asked these"


def test_masks_are_those_of_the_grammar_whatever_the_rows_were_before(compiler: Compiler) -> None:
    """Rows are shuffled and doubled between calls, as beams are; also one that was not there before."""
    grammar = compiler.regex(PATTERN)
    processor = GrammarLogitsProcessor(grammar)
    rng = random.Random(5)
    rows: list[list[int]] = [[], [], []]
    for _ in range(9):
        ids = torch.tensor([[7, 8, *row] for row in rows])
        scores = torch.randn(len(rows), 272, dtype=rng.choice([torch.float32, torch.bfloat16]))
        masked = processor(ids, scores)
        assert masked.dtype == scores.dtype and masked.device == scores.device
        assert (masked == scores).logical_or(masked == float("-inf")).all()
        choices = []
        for row, shown in zip(rows, masked, strict=True):
            state = grammar.step_bytes(grammar.start, compiler.vocabulary.join(row))
            expected = [t for t in range(257 + 2) if state == DONE or grammar.step(state, t) != DEAD]
            if EOS in row:
                expected = [EOS]
            assert torch.isfinite(shown).nonzero().flatten().tolist() == expected
            choices.append(expected)
        rows = [[*rows[i], rng.choice(choices[i])] for i in rng.choices(range(len(rows)), k=4)]


def test_a_text_that_was_not_seen_in_the_call_before(compiler: Compiler) -> None:
    processor = GrammarLogitsProcessor(compiler.regex("abc|abd|xyz"))
    processor(torch.tensor([[1]]), torch.zeros(1, 272))
    scores = processor(torch.tensor([[1, 97, 98]]), torch.zeros(1, 272))  # as assisted generation does
    assert torch.isfinite(scores[0]).nonzero().flatten().tolist() == [99, 100]
    scores = processor(torch.tensor([[1, 120]]), torch.zeros(1, 272))
    assert torch.isfinite(scores[0]).nonzero().flatten().tolist() == [121]


def test_scores_are_masked_beyond_the_vocabulary_too(compiler: Compiler) -> None:
    processor = GrammarLogitsProcessor(compiler.regex("a|b"))
    scores = processor(torch.tensor([[1, 2, 3]]), torch.zeros(1, 272))
    assert torch.isfinite(scores[0]).nonzero().flatten().tolist() == [97, 98]


def test_leaving_the_language_is_an_error(compiler: Compiler) -> None:
    processor = GrammarLogitsProcessor(compiler.regex("a|b"))
    processor(torch.tensor([[1]]), torch.zeros(1, 272))
    with pytest.raises(ConstrainError, match="token 99"):
        processor(torch.tensor([[1, 99]]), torch.zeros(1, 272))
    with pytest.raises(ConstrainError, match="token 270"):
        processor(torch.tensor([[1, 270]]), torch.zeros(1, 272))


def test_a_beam_of_probability_zero_ends(compiler: Compiler) -> None:
    processor = GrammarLogitsProcessor(compiler.regex("ab+"), beams=True)
    processor(torch.tensor([[1], [1]]), torch.zeros(2, 272))
    for rows in ([[1, 97], [1, 98]], [[1, 97, 98], [1, 98, EOS]]):  # the second row has left the language
        scores = processor(torch.tensor(rows), torch.zeros(2, 272))
        assert torch.isfinite(scores[1]).nonzero().flatten().tolist() == [EOS]
        assert 98 in torch.isfinite(scores[0]).nonzero().flatten().tolist()


def test_more_beams_than_there_are_texts(model: Any, compiler: Compiler) -> None:
    prompt = torch.tensor([[65, 66]])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=8,
        num_beams=6,
        num_return_sequences=2,
        logits_processor=transformers.LogitsProcessorList(
            [GrammarLogitsProcessor(compiler.choice(["yes", "no"]), beams=True)]
        ),
    )
    assert set(texts(compiler, output, prompt=2)) <= {"no", "yes"}  # "yes" may be spelled in two ways


def test_rows_of_two_grammars_may_have_the_same_tokens_and_padding(compiler: Compiler) -> None:
    processor = GrammarLogitsProcessor([compiler.regex("ab|x{2}|a"), compiler.regex("y|ac|a|[e-z]{3}")])
    expected = [
        [[97, 120], [97, *range(101, 123), 257]],
        [[98, EOS], [99, EOS]],
        [[EOS], [EOS]],
        [[EOS], [EOS]],
    ]
    for length, rows in enumerate(expected):
        written = [97, EOS, 5][:length]  # 5: padding
        scores = processor(torch.tensor([[1, *written], [2, *written]]), torch.zeros(2, 272))
        assert [torch.isfinite(row).nonzero().flatten().tolist() for row in scores] == rows


def test_what_a_processor_cannot_be_asked(compiler: Compiler) -> None:
    with pytest.raises(ConstrainError, match="one for each prompt"):
        GrammarLogitsProcessor([])
    processor = GrammarLogitsProcessor([compiler.regex("a"), compiler.regex("b")])
    with pytest.raises(ConstrainError, match="3 rows do not come from 2 prompts"):
        processor(torch.tensor([[1], [1], [1]]), torch.zeros(3, 272))
    processor(torch.tensor([[1, 2], [1, 2]]), torch.zeros(2, 272))
    with pytest.raises(ConstrainError, match="one call of generate"):
        processor(torch.tensor([[1], [1]]), torch.zeros(2, 272))


def test_it_has_the_interface_of_the_processors_of_transformers() -> None:
    theirs = transformers.LogitsProcessor
    assert list(inspect.signature(GrammarLogitsProcessor.__call__).parameters) == list(
        inspect.signature(theirs.__call__).parameters
    )
    assert {name for name in vars(theirs) if not name.startswith("__")} <= set(vars(GrammarLogitsProcessor))


@given(st.integers(1, 3), st.integers(1, 100), st.integers(1, 130), st.randoms(use_true_random=False))
def test_words_are_unpacked_bit_by_bit(rows: int, width: int, size: int, rng: random.Random) -> None:
    allowed = [[rng.random() < 0.5 for _ in range(width)] for _ in range(rows)]
    packed = np.packbits(np.array(allowed), axis=-1, bitorder="little")
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[-1] % 4))).view(np.int32)
    for dtype in (torch.int32, torch.int64):
        found = forbidden(torch.from_numpy(packed.copy()).to(dtype), size)
        expected = [[not (token < width and row[token]) for token in range(size)] for row in allowed]
        assert found.tolist() == expected and found.dtype == torch.bool


@pytest.mark.gpu
def test_scores_on_a_device_are_masked_there(compiler: Compiler) -> None:
    grammars = [compiler.regex("a|b"), None, compiler.regex("[c-e]é")]
    ids = torch.tensor([[1, 2], [3, 4], [5, 6]], device="cuda")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        scores = torch.randn(3, 272, device="cuda", dtype=dtype)
        masked = GrammarLogitsProcessor(grammars)(ids, scores)
        assert masked.device == scores.device and masked.dtype == dtype
        assert torch.equal(masked[1], scores[1])
        assert torch.isfinite(masked[0]).nonzero().flatten().tolist() == [97, 98]
        assert torch.isfinite(masked[2]).nonzero().flatten().tolist() == [99, 100, 101]
