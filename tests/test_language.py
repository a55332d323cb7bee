# SPDX-License-Identifier: Apache-2.0
"""The language on our server: its examples on the demonstration model, its scores against transformers."""

from __future__ import annotations

import re
import runpy
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sgl_lang as sgl
import torch
import transformers
from live import ROOT, Server
from sgl_lang.default import default_backend

EXAMPLES = ROOT / "examples"
TOKENS = 12


class Brief(sgl.RuntimeEndpoint):
    """A few tokens show as much as many: what no form says the end of is cut off."""

    def generate(self, prompt: sgl.Prompt, params: sgl.SamplingParams) -> sgl.Completion:
        if params.regex is None and params.json_schema is None:
            params = replace(params, max_new_tokens=min(params.max_new_tokens or TOKENS, TOKENS))
        return super().generate(prompt, params)


@pytest.fixture
def play(
    demonstration: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], dict[str, Any]]]:
    """Runs an example on the demonstration model; its variables."""
    monkeypatch.setattr(sgl, "RuntimeEndpoint", Brief, raising=False)

    def play(example: str) -> dict[str, Any]:
        program = (EXAMPLES / example).read_text(encoding="utf-8")
        (tmp_path / example).write_text(
            program.replace("http://localhost:30000", demonstration.url), encoding="utf-8"
        )
        return runpy.run_path(str(tmp_path / example))

    yield play
    backend = default_backend()
    assert isinstance(backend, Brief)
    backend.close()


@pytest.mark.parametrize(
    "example",
    ["tool_use.py", "tool_use_zh.py", "parallel_tips.py", "batch.py", "chat_roles.py", "async_debate.py"],
)
def test_an_example_on_the_demonstration_model(play: Any, capsys: Any, example: str) -> None:
    variables = play(example)
    printed = capsys.readouterr().out
    match example:
        case "tool_use.py":
            assert variables["state"]["tool"] == "calculator"
        case "tool_use_zh.py":
            assert variables["state"]["tool"] in ("计算器", "搜索引擎")
        case "parallel_tips.py":
            assert all(len(fork) > 20 for fork in printed.split("Tip ")[1:])
        case "batch.py":
            assert len(printed.splitlines()) == 3 and "London" in printed and "Paris" in printed
        case "chat_roles.py":
            assert "Paris" in variables["state"]["answer"]
        case "async_debate.py":
            assert len(variables["verdicts"]) == 2 and all(variables["verdicts"])


@pytest.mark.parametrize("example", ["regular_expression.py", "character_regex_zh.py", "json_schema.py"])
def test_a_constrained_example_keeps_its_form(play: Any, capsys: Any, example: str) -> None:
    variables = play(example)
    assert capsys.readouterr().out
    match example:
        case "regular_expression.py":
            numbers = variables["state"]["answer"].split(".")
            assert len(numbers) == 4 and all(0 <= int(number) < 256 for number in numbers)
        case "character_regex_zh.py":
            assert re.fullmatch(variables["character_regex"], variables["state"]["json_output"])
            assert variables["character"]["house"] in ("格兰芬多", "斯莱特林", "拉文克劳", "赫奇帕奇")
        case "json_schema.py":
            character = variables["character"]
            assert set(character) == {"name", "house", "alive", "wand"}
            assert isinstance(character["alive"], bool) and isinstance(character["wand"]["wood"], str)


def test_numbers_and_strings_have_their_type(demonstration: Server) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += "Two plus three makes " + sgl.gen_int("sum", max_tokens=8) + ". Pi is about "
        s += sgl.gen("pi", max_tokens=8, dtype=float) + ". It is" + sgl.gen("true", dtype=bool, max_tokens=8)
        s += ". He said: " + sgl.gen_string("said", max_tokens=16)

    with sgl.RuntimeEndpoint(demonstration.url) as backend:
        state = program.run(backend=backend, temperature=0)
    assert int(state["sum"]) is not None and float(state["pi"]) is not None
    assert state["true"] in ("True", "False") and state["said"].startswith('"')


def test_a_prefix_is_computed_once_for_a_batch_and_for_forks(demonstration: Server) -> None:
    @sgl.function
    def program(s: Any, i: int) -> None:
        s += f"Rules of the game called batch: {'be quick, be kind, be brief; ' * 20}\n"
        s += f"Move {i}:" + sgl.gen("move", max_tokens=2)
        forks = s.fork(3)
        forks += lambda number: f" Answer {number}:"
        forks += sgl.gen("answer", max_tokens=2)
        forks.join()

    with sgl.RuntimeEndpoint(demonstration.url) as backend:
        states = program.run_batch([(i,) for i in range(4)], backend=backend, temperature=0)
        usages = [state.usage() for state in states]
    assert all(state.error() is None for state in states)
    assert all(usage.cached_tokens > 0.9 * usage.prompt_tokens for usage in usages)


def test_an_image_for_a_text_model_is_refused_in_its_words(demonstration: Server) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.user("See " + sgl.image(b"GIF89a")) + sgl.assistant(sgl.gen("a"))

    with sgl.RuntimeEndpoint(demonstration.url) as backend:
        error = program.run(backend=backend).error()
    assert isinstance(error, sgl.BackendError) and error.status == 400
    assert "image_data" in str(error)


@pytest.fixture(scope="module")
def own(tiny: Path) -> Iterator[sgl.Runtime]:
    """A server of the program's own, on random weights that transformers reads too."""
    with sgl.Runtime(model_path=str(tiny), max_total_tokens=4096, dtype="float32") as runtime:
        assert runtime.get_server_args()["max_total_tokens"] == 4096
        yield runtime
    assert "runtime output" not in [thread.name for thread in threading.enumerate()]
    runtime.shutdown()  # twice is as good as once


PROMPTS = ["The capital is ", "The capital is", "ab", "汉字与 é", "one two  "]
OPTIONS = ["Paris", " Paris", "Par", "", "Paris, Paris and again Paris, the city", "汉", "é", "s"]


@pytest.fixture(scope="module")
def reference(tiny: Path) -> tuple[Any, Any]:
    """The tokenizer and the model as transformers reads them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    return transformers.AutoTokenizer.from_pretrained(tiny), model


@pytest.mark.parametrize("prompt", PROMPTS)
def test_scores_are_those_of_transformers(own: sgl.Runtime, reference: tuple[Any, Any], prompt: str) -> None:
    tokenizer, model = reference
    before = tokenizer(prompt).input_ids
    after = [tokenizer(prompt + option).input_ids for option in OPTIONS]
    start = max(
        place
        for place in range(len(before) + 1)
        if all(ids[:place] == before[:place] and len(ids) > place for ids in after)
    )
    scores = own.score(sgl.Prompt("scores", prompt), OPTIONS, unconditional=True)
    if start == 0:
        pytest.fail("the prompts are meant to leave a token before every option")
    for ids, option in zip(after, scores.options, strict=True):
        expected = _logprobs(model, ids)[start - 1 :]
        assert option.tokens == tuple(ids[start:])
        assert option.logprobs == pytest.approx(expected, abs=2e-3)
        assert option.unconditional is not None
        nothing = tokenizer("").input_ids
        alone = _logprobs(model, nothing + ids[start:])[max(len(nothing) - 1, 0) :]
        assert option.unconditional == pytest.approx([*([] if nothing else [0.0]), *alone], abs=2e-3)


def test_a_choice_at_the_very_beginning_has_nothing_to_go_by(own: sgl.Runtime) -> None:
    @sgl.function
    def program(s: Any) -> None:
        s += sgl.select("a", ["x", "y"])

    error = program.run(backend=own).error()
    assert error is None or "none before this one" in str(error)


def test_vectors_of_a_server_of_ones_own(tiny: Path, reference: tuple[Any, Any]) -> None:
    tokenizer, model = reference
    with sgl.Runtime(model_path=str(tiny), dtype="float32", is_embedding=True) as runtime:
        vectors = runtime.encode(["The capital", "汉字"])
        with pytest.raises(sgl.BackendError, match="encode"):
            runtime.generate(sgl.Prompt("text", "The"), sgl.SamplingParams(max_new_tokens=1))
    for text, vector in zip(["The capital", "汉字"], vectors, strict=True):
        with torch.no_grad():
            last = model.model(torch.tensor([tokenizer(text).input_ids])).last_hidden_state[0, -1]
        assert vector == pytest.approx((last / last.norm()).tolist(), abs=1e-4)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(sgl.BackendError, match=r"(?s)ended with exit code 2.*no-such-model"):
        sgl.Runtime(model_path=str(tmp_path / "no-such-model"))


def _logprobs(model: Any, ids: list[int]) -> list[float]:
    """Of each token but the first."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    table = torch.log_softmax(logits, -1)
    return [float(table[place, token]) for place, token in enumerate(ids[1:])]
