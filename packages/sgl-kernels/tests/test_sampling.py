# SPDX-License-Identifier: Apache-2.0
"""Which tokens are kept (numpy float64), how often they are drawn (chi-square), what a draw depends on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sgl_kernels import SamplingParameters, sample, sampling


def draw(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int = -1,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seeds: NDArray[Any] | None = None,
    step: int = 0,
) -> Tensor:
    """One set of parameters for all rows; seeds 0, 1, 2 … if none are given."""
    m = len(logits)
    seeds = np.arange(m) if seeds is None else seeds
    columns = (np.full(m, value) for value in (temperature, top_k, top_p, min_p))
    return sample(logits, SamplingParameters.of(*columns, seeds, np.full(m, step), logits.device))


def kept(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> NDArray[np.bool_]:
    """Of one row, by the definition, in float64."""
    scaled = logits.double().numpy() / temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    keep = np.ones(len(probs), bool)
    for token, p in enumerate(probs):
        above = probs > p
        if 0 < top_k <= above.sum() or (top_p < 1 and probs[above].sum() >= np.float32(top_p)):
            keep[token] = False
        if p < np.float32(min_p) * probs.max():
            keep[token] = False
    keep[probs == probs.max()] = True
    return keep


PARAMETERS = [
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 40},
    {"top_p": 0.0},
    {"top_p": 0.5},
    {"top_p": 0.93},
    {"min_p": 0.3},
    {"min_p": 1.0},
    {"top_k": 9, "top_p": 0.4},
    {"top_k": 4, "top_p": 0.9},
    {"top_k": 20, "top_p": 0.8, "min_p": 0.25},
    {"temperature": 0.5, "top_k": 20, "top_p": 0.8, "min_p": 0.25},
    {"temperature": 3.0, "top_p": 0.8},
]


@pytest.mark.parametrize("widths", [(256, 4096), (4, 16), ()])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_exactly_the_kept_tokens_are_drawn(
    parameters: dict[str, Any], ties: bool, widths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_WIDTHS", widths)
    logits = torch.rand(40) * 1.5
    if ties:
        logits = (logits * 4).round() / 4
    expected = kept(logits, **({"temperature": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0} | parameters))
    drawn = draw(logits.expand(2000, -1), **parameters)
    assert drawn.dtype == torch.int32
    assert set(drawn.tolist()) == set(np.flatnonzero(expected).tolist())


@pytest.mark.parametrize(
    "parameters", [{"top_p": 0.9}, {"top_k": 300}, {"top_k": 4500}, {"top_p": 0.9, "top_k": 5999}]
)
def test_kept_tokens_beyond_the_first_look(parameters: dict[str, Any]) -> None:
    logits = torch.rand(6000)
    expected = kept(logits, **({"temperature": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0} | parameters))
    drawn = draw(logits.expand(200, -1), **parameters).numpy()
    assert expected[drawn].all()
    distinct = expected.sum() * (1 - math.exp(-200 / expected.sum()))
    assert abs(len(set(drawn.tolist())) - distinct) < 0.1 * distinct


def frequencies_match(drawn: Tensor, logits: Tensor, temperature: float, keep: NDArray[np.bool_]) -> bool:
    scaled = logits.double().numpy() / temperature
    probs = np.where(keep, np.exp(scaled - scaled.max()), 0)
    probs /= probs.sum()
    counts = np.bincount(drawn.numpy(), minlength=len(probs))
    assert not counts[~keep].any()
    expected, counts = probs[keep] * counts.sum(), counts[keep]
    assert expected.min() > 5, "too few draws for the test"
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    return bool(statistic < freedom + 4 * math.sqrt(2 * freedom))


@pytest.mark.parametrize(
    "parameters",
    [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 8, "top_p": 0.8}],
)
@pytest.mark.parametrize("over", ["seeds", "steps"])
def test_frequencies_are_the_softmax_of_what_is_kept(parameters: dict[str, Any], over: str) -> None:
    logits = torch.randn(16)
    defaults = {"temperature": 1.0, "top_k": -1, "top_p": 1.0, "min_p": 0.0} | parameters
    n = 20000
    counters = np.arange(n)
    constant = np.full(n, 7)
    seeds, steps = (counters, constant) if over == "seeds" else (constant, counters)
    columns = {name: np.full(n, value) for name, value in defaults.items()}
    drawn = sample(logits.expand(n, -1), SamplingParameters.of(**columns, seeds=seeds, steps=steps))
    assert frequencies_match(drawn, logits, defaults["temperature"], kept(logits, **defaults))


def test_rare_tokens_of_a_large_vocabulary_are_drawn_as_often_as_they_should() -> None:
    """Half the probability is spread over 20,000 tokens of 2.5e-5 each, half lies on one."""
    logits = torch.zeros(20001)
    logits[17] = math.log(20000)
    drawn = draw(logits.expand(1000, -1))
    rare = drawn[drawn != 17]
    assert abs(len(rare) - 500) < 4 * math.sqrt(250)
    assert abs((rare < 10000).sum().item() - len(rare) / 2) < 4 * math.sqrt(len(rare) / 4)
    assert len(set(rare.tolist())) > 0.95 * len(rare)


def test_successive_tokens_of_a_seed_are_independent() -> None:
    logits = torch.zeros(4)
    n = 20000
    ones, steps = np.ones(n), np.arange(n)
    parameters = SamplingParameters.of(ones, -ones, ones, 0 * ones, ones * 3, steps)
    drawn = sample(logits.expand(n, -1), parameters).numpy()
    for lag in (1, 2, 16):
        counts = np.bincount(drawn[:-lag] * 4 + drawn[lag:], minlength=16)
        expected = counts.sum() / 16
        assert ((counts - expected) ** 2 / expected).sum() < 15 + 4 * math.sqrt(30)


ROW = st.tuples(
    st.sampled_from([0.0, 0.3, 1.0, 2.0]),  # temperature
    st.sampled_from([-1, 0, 1, 3, 49, 50, 1000]),  # top_k
    st.sampled_from([1.0, 0.5, 0.95]),  # top_p
    st.sampled_from([0.0, 0.1]),  # min_p
    st.integers(0, 2**63 - 1),  # seed
    st.integers(0, 2**31 - 1),  # step
)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(ROW, min_size=1, max_size=12), st.integers(1, 200))
def test_a_row_does_not_depend_on_its_batch(rows: list[tuple[Any, ...]], at_once: int) -> None:
    logits = torch.randn(len(rows), 50, generator=torch.Generator().manual_seed(1)) * 3
    parameters = SamplingParameters.of(*zip(*rows, strict=True))
    together = sample(logits, parameters)
    again = sample(logits, parameters)
    assert torch.equal(together, again)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_AT_ONCE", at_once)
        patch.setattr(sampling, "_WIDTHS", (4, 16))
        assert torch.equal(together, sample(logits, parameters))
    for i, row in enumerate(rows):
        alone = SamplingParameters.of(*([value] for value in row))
        assert sample(logits[i : i + 1], alone).item() == together[i].item()
        if row[0] == 0 or row[1] == 1:
            assert together[i] == logits[i].argmax()


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = torch.tensor([[0.0, 5.0, 5.0], [3.0, 1.0, 3.0]])
    assert draw(logits, temperature=0.0).tolist() == [1, 0]


def test_a_temperature_near_zero_is_greedy() -> None:
    logits = torch.randn(50, 1000) * 10
    assert torch.equal(draw(logits, temperature=1e-38).long(), logits.argmax(-1))
    assert torch.equal(draw(logits, temperature=1e-38, top_p=0.9).long(), logits.argmax(-1))


def test_cpu_tensors_are_host_arrays() -> None:
    logits = torch.randn(3, 50)
    columns = [torch.tensor(x) for x in ([0.0, 1.0, 1.0], [-1, 5, -1], [1.0, 1.0, 0.5], [0.0, 0.0, 0.0])]
    columns += [torch.tensor([1, 2, 3]), torch.tensor([0, 0, 0])]
    arrays = (x.numpy() for x in columns)
    expected = sample(logits, SamplingParameters.of(*arrays))
    assert torch.equal(sample(logits, SamplingParameters.of(*columns)), expected)


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = torch.zeros(2000, 8)
    logits[:, [0, 3]] = float("-inf")
    for top_k, top_p in ((-1, 1.0), (7, 1.0), (-1, 0.99)):
        assert not set(draw(logits, top_k=top_k, top_p=top_p).tolist()) & {0, 3}


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_poisoned_row_leaves_the_others_alone(poison: float) -> None:
    logits = torch.randn(9, 50)
    ways = ((-1, 1.0), (5, 1.0), (-1, 0.5))
    clean = [draw(logits, top_k=top_k, top_p=top_p) for top_k, top_p in ways]
    logits[4] = poison
    others = torch.arange(9) != 4
    for before, (top_k, top_p) in zip(clean, ways, strict=True):
        after = draw(logits, top_k=top_k, top_p=top_p)
        assert torch.equal(before[others], after[others])
        assert after[4] == -1
    assert draw(logits, temperature=0.0)[4] == -1


def test_no_rows() -> None:
    assert draw(torch.empty(0, 50)).shape == (0,)


def test_only_rows_that_must_sort_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_threshold", None)  # would be called if a row were sorted
    draw(torch.randn(4, 50), temperature=0.0, top_k=5, top_p=0.5)
    draw(torch.randn(4, 50), min_p=0.1)
    draw(torch.randn(4, 50), top_k=50)
    with pytest.raises(TypeError):
        draw(torch.randn(4, 50), top_k=49)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("temperature", [-1.0, 1.0]),
        ("temperature", [math.nan, 1.0]),
        ("top_k", [1]),
        ("top_p", [1.1, 1.0]),
        ("min_p", [-0.1, 0.0]),
        ("seeds", [1, 2, 3]),
        ("steps", [-1, 0]),
    ],
)
def test_what_parameters_refuse(name: str, bad: list[float]) -> None:
    columns: dict[str, Any] = {
        "temperature": [1.0, 1.0], "top_k": [0, 0], "top_p": [1.0, 1.0], "min_p": [0.0, 0.0],
        "seeds": [1, 2], "steps": [0, 0],
    }  # fmt: skip
    with pytest.raises(ValueError, match=f"^{name}: "):
        SamplingParameters.of(**columns | {name: bad})


def test_what_is_refused() -> None:
    parameters = SamplingParameters.of([1.0], [0], [1.0], [0.0], [1], [0])
    for logits in (
        torch.zeros(1, 8).double(),
        torch.zeros(8),
        torch.zeros(8, 1).t()[:, ::2],
        torch.zeros(1, 0),
    ):
        with pytest.raises(ValueError, match=r"^logits: "):
            sample(logits, parameters)
    with pytest.raises(ValueError, match=r"^parameters: "):
        sample(torch.zeros(2, 8), parameters)


def test_it_compiles_to_one_graph() -> None:
    parameters = SamplingParameters.of([1.0, 0.0], [5, 0], [0.9, 1.0], [0.0, 0.0], [1, 2], [0, 0])
    logits = torch.randn(2, 50)
    compiled = torch.compile(lambda x: sample(x * 2, parameters), fullgraph=True, backend="eager")
    assert torch.equal(compiled(logits), sample(logits * 2, parameters))
