# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of sampling, interpreted: they draw what the reference draws, whatever is guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_kernels import SamplingParameters, sample
from sgl_kernels._triton import sampling, sampling_read

# Numpy warns of infinity less infinity and of integers that wrap around; a GPU does not.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

SHAPE = sampling.SHAPE._replace(chunk=512, narrow_room=64, sample=256, slots=2)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
ROW = st.tuples(
    st.sampled_from([0.0, 1e-38, 0.3, 1.0, 2.0]),  # temperature
    st.sampled_from([-1, 0, 1, 3, 49, 300, 1000]),  # top_k
    st.sampled_from([1.0, 0.0, 0.5, 0.95]),  # top_p
    st.sampled_from([0.0, 0.07, 1.0]),  # min_p
    st.integers(0, 2**63 - 1),  # seed
    st.integers(0, 2**31 - 1),  # step
)


def both(logits: torch.Tensor, rows: list[tuple[Any, ...]], shape: sampling.Shape = SHAPE) -> torch.Tensor:
    parameters = SamplingParameters.of(*zip(*rows, strict=True))
    ours, reference = sampling.sample(logits, parameters, shape), sample(logits, parameters)
    assert ours.dtype == torch.int32
    assert torch.equal(ours, reference)
    return ours


@settings(max_examples=16, deadline=None, derandomize=True)
@given(st.lists(ROW, min_size=1, max_size=3), st.integers(1, 3000), DTYPES, st.integers(0, 5), st.booleans())
def test_any_shape(rows: list[tuple[Any, ...]], vocab: int, dtype: torch.dtype, gap: int, ties: bool) -> None:
    logits = torch.randn(len(rows), vocab + gap) * 3
    both((logits.round() if ties else logits).to(dtype)[:, :vocab], rows)


LIMITS = [(1.0, 5, 1.0, 0.0), (0.8, 0, 0.9, 0.0), (1.0, 0, 1.0, 0.2), (1.5, 60, 0.7, 0.01)]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize(
    "logits", ["equal", "two values", "a peak", "mostly forbidden", "both zeros", "huge"]
)
def test_crafted_rows(limits: tuple[Any, ...], logits: str) -> None:
    x = {
        "equal": lambda: torch.zeros(1, 777),
        "two values": lambda: torch.randint(0, 2, (1, 777)).float(),
        "a peak": lambda: torch.cat([torch.full((1, 1), 30.0), torch.randn(1, 776)], 1),
        "mostly forbidden": lambda: torch.full((1, 777), float("-inf")).index_fill_(
            1, torch.tensor([5, 700]), 1
        ),
        "both zeros": lambda: torch.randint(0, 2, (1, 777)) * -0.0,
        "huge": lambda: torch.randn(1, 777) * 1e37,
    }[logits]()
    both(x, [(*limits, 1, 2)])


@pytest.mark.parametrize("limits", [(2, 1.0), (3, 1.0), (0, 0.0199), (99, 0.0199)])
def test_the_edge_of_what_is_kept(limits: tuple[int, float]) -> None:
    """Nearly equal tokens: one too many is drawn as often as those that are kept, one too few is missed."""
    logits = (torch.arange(100) * -1e-6).expand(7, -1)
    both(logits, [(1.0, *limits, 0.0, seed, 0) for seed in range(7)])


@pytest.mark.parametrize(
    ("bounds", "dtype"),
    [
        ((-9.0, -5.0), torch.float32),  # too low
        ((2.5, 7.0), torch.bfloat16),  # too high
        ((1.0, 1.0), torch.float32),
        ((float("inf"),) * 2, torch.bfloat16),  # there is none
        ((-3.0, 3.0), torch.float32),  # far apart
        ((-0.36, -0.34), torch.float16),
    ],
)
def test_a_wrong_guess_changes_nothing(
    bounds: tuple[float, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.randn(1, 2100).to(dtype).expand(6, -1)
    rows = [(1.0, 1000, 0.6, 0.0, seed, 1) for seed in range(3)]
    rows += [(0.9, 0, 0.7, 0.001, seed, 1) for seed in range(3)]

    class Wrong:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *arguments, **options: arguments[2].copy_(torch.tensor(bounds))

    monkeypatch.setattr(sampling_read, "_guess", Wrong())
    for slots in (1, 8):
        both(logits, rows, SHAPE._replace(slots=slots))


@pytest.mark.parametrize("limits", [(1.0, 0, 0.9, 0.0), (0.8, 1500, 0.97, 0.0), (1.0, 2500, 0.999, 1e-4)])
@pytest.mark.parametrize("kind", ["heads in one group", "steep", "few values", "two levels"])
def test_rows_that_a_sample_shows_wrongly(limits: tuple[Any, ...], kind: str) -> None:
    logits = torch.randn(2, 5000)
    if kind == "heads in one group":
        logits[:, 3:8] += 9
    elif kind == "steep":
        logits *= 5
    elif kind == "few values":
        logits = logits.round()
    else:
        logits = torch.where(torch.arange(5000) % 125 == 9, logits + 4, logits * 0.1)
    both(logits, [(*limits, seed, 0) for seed in range(2)])


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("limits", [(0.0, 0, 1.0, 0.0), (1.0, 0, 1.0, 0.0), (1.0, 5, 0.9, 0.1)])
def test_a_row_that_names_no_token(poison: float, limits: tuple[Any, ...]) -> None:
    logits = torch.randn(3, 200)
    if poison == float("-inf"):
        logits[1] = poison
    else:
        logits[1, 150] = poison
    found = both(logits, [(*limits, 1, 2)] * 3)
    assert found[1] == -1
    assert (found[[0, 2]] >= 0).all()


def test_no_rows() -> None:
    none = SamplingParameters.of([], [], [], [], [], [])
    assert sampling.sample(torch.empty(0, 50), none).shape == (0,)


@pytest.mark.parametrize(
    ("dtype", "top_p", "second", "third"),
    [
        (torch.bfloat16, 0.3, 29.5, 29.375),
        (torch.bfloat16, 0.3, 29.25, 29.125),
        (torch.float16, 0.2, 29.921875, 29.90625),
        (torch.float16, 0.2, 29.875, 29.859375),
    ],
)
def test_neighbours_at_the_edge_of_a_wide_row(
    dtype: torch.dtype, top_p: float, second: float, third: float
) -> None:
    """The first two are kept. A bound between numbers of the dtype must not let the third in."""
    logits = torch.full((4, 2048), -1e4)
    logits[:, :8] = torch.tensor([30.0, second, *[third] * 6])
    tokens = both(logits.to(dtype), [(1.0, -1, top_p, 0.0, seed, 0) for seed in range(4)])
    assert set(tokens.tolist()) <= {0, 1}
