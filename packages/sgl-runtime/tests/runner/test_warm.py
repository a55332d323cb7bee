# SPDX-License-Identifier: Apache-2.0
"""What is launched before the first request: every kind once, in one order where other ranks take part."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sgl_kernels import load_attention
from torch import Tensor

from sgl_runtime.checkpoint.config import read_config
from sgl_runtime.config import ServeConfig
from sgl_runtime.layers import KVPool
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.runner.assemble import Pass, Rows
from sgl_runtime.runner.load import load_model
from sgl_runtime.runner.passes import Passes
from sgl_runtime.runner.sampler import Sampler
from sgl_runtime.runner.warm import ROWS, WIDTH, warm

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def launched(tiny: Path) -> Callable[..., list[tuple[str, str]]]:
    """Runs `warm` on the CPU; (what was launched, by which thread), in order."""
    config = ServeConfig(dtype="float32", device="cpu")
    read = read_config(tiny)
    model, dtype = load_model(config, read, tiny, TensorParallel.alone(), None)
    specs = model.attention_specs()
    attention = load_attention("reference", specs, CPU)

    def run(*, budget: int, in_order: bool, broken: bool = False) -> list[tuple[str, str]]:
        seen: list[tuple[str, str]] = []

        class Noted(Passes):
            def run(self, step: Pass) -> tuple[Tensor, Tensor]:
                if broken and step.requests == 2:
                    raise RuntimeError("no kernel")
                seen.append((f"pass {step.layout.q_lens}", threading.current_thread().name))
                return super().run(step)

        def answer(hidden: Tensor) -> Tensor:
            seen.append((f"answer {len(hidden)}", threading.current_thread().name))
            return model.logits(hidden)

        passes = Noted(model, Rows(ROWS, WIDTH, CPU), KVPool(specs, 1, dtype, CPU), attention, specs)
        hidden = torch.zeros(1, read.hidden_size)
        with torch.inference_mode():
            warm(passes, answer, hidden, Sampler(read.vocab_size, CPU), budget, in_order=in_order)
        return seen

    return run


def test_every_kind_is_launched_once(launched: Callable[..., list[tuple[str, str]]]) -> None:
    seen = sorted(what for what, _ in launched(budget=1536, in_order=False))
    answers = [f"answer {rows}" for rows in (1, 2, 3, 20, 20)]
    passes = [
        f"pass {queries}"
        for queries in ((100, 1), (4, 1), (8, 1), (2,), (20,), (1100,), (1600, *[2] * 13), (1536,))
    ]
    assert seen == sorted(answers + passes)


def test_ranks_agree_on_the_order(launched: Callable[..., list[tuple[str, str]]]) -> None:
    """A collective of one rank meets that of the others only if all launch the same one next."""
    first, second = (launched(budget=0, in_order=True)[1:] for _ in range(2))
    assert [what for what, _ in first] == [what for what, _ in second]
    assert len({thread for _, thread in first}) == 1


def test_what_cannot_be_compiled_is_no_secret(launched: Callable[..., list[tuple[str, str]]]) -> None:
    with pytest.raises(RuntimeError, match="no kernel"):
        launched(budget=0, in_order=False, broken=True)
