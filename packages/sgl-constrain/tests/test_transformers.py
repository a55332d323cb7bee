# SPDX-License-Identifier: Apache-2.0
"""The logits processor in the real `generate`, on a tiny model with random weights."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sgl_constrain import Compiler, ConstrainError, Vocabulary
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
    processor = GrammarLogitsProcessor(compiler.regex(r"(yes|no), \d{2}-é{1,3}!"))
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


def test_scores_are_masked_beyond_the_vocabulary_too(compiler: Compiler) -> None:
    processor = GrammarLogitsProcessor(compiler.regex("a|b"))
    scores = processor(torch.tensor([[1, 2, 3]]), torch.zeros(1, 272))
    assert torch.isfinite(scores[0]).nonzero().flatten().tolist() == [97, 98]


def test_leaving_the_language_is_an_error(compiler: Compiler) -> None:
    processor = GrammarLogitsProcessor(compiler.regex("a|b"))
    processor(torch.tensor([[1]]), torch.zeros(1, 272))
    with pytest.raises(ConstrainError, match="token 99"):
        processor(torch.tensor([[1, 99]]), torch.zeros(1, 272))
