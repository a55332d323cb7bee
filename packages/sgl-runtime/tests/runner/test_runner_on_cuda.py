# SPDX-License-Identifier: Apache-2.0
"""The same runner on a CUDA device: right numbers, and a host that does not wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driver import Driver, make_runner, sampling
from sgl_kernels import load_attention
from transformers import AutoModelForCausalLM

from sgl_runtime.messages import History, LogprobArrays
from sgl_runtime.models.llama import TINY
from sgl_runtime.parallel.rendezvous import choose_device
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.runner import attention
from sgl_runtime.runner.assemble import describe

pytestmark = pytest.mark.gpu

PROMPT = torch.randint(3, TINY["vocab_size"], (1, 40), generator=torch.Generator().manual_seed(11))[
    0
].tolist()
OTHER = torch.randint(3, TINY["vocab_size"], (1, 33), generator=torch.Generator().manual_seed(12))[0].tolist()


def on_cuda(folder: Path, **config: Any) -> Driver:
    tp = TensorParallel.alone(choose_device("cuda"))
    return Driver(make_runner(folder, tp=tp, device="cuda", **config))


def test_the_same_logits_and_tokens_as_on_a_cpu(tiny: Path) -> None:
    here, there = Driver(make_runner(tiny)), on_cuda(tiny)
    assert there.runner.asynchronous
    for row, prompt in ((0, PROMPT), (1, OTHER)):
        token, logprobs = here.distribution(row, prompt)
        their_token, their_logprobs = there.distribution(row, prompt)
        torch.testing.assert_close(their_logprobs, logprobs, atol=1e-4, rtol=0)
        assert their_token == token
    assert there.generate(2, PROMPT, 16, chunk=7) == here.generate(2, PROMPT, 16)


def test_the_logits_of_transformers(tiny: Path) -> None:
    """On the same device, in float32."""
    theirs = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).cuda()
    driver = on_cuda(tiny)
    for row, prompt in enumerate((PROMPT, OTHER, PROMPT + OTHER)):
        with torch.inference_mode():
            logits = theirs(torch.tensor([prompt], device="cuda")).logits[0, -1]
        token, logprobs = driver.distribution(row, prompt)
        torch.testing.assert_close(logprobs.cpu(), logits.log_softmax(-1).cpu(), atol=1e-4, rtol=0)
        assert token == int(logits.argmax())


def test_steps_follow_each_other_without_the_host(tiny: Path) -> None:
    """Ten steps are launched before the first result is looked at, sampled and penalised on the device."""
    none = np.empty(0, np.int32)
    everything = LogprobArrays(np.array([2, 0], np.int32), none, none, none)

    def launch(driver: Driver) -> list[Any]:
        history = (History(1, np.array(OTHER, np.int32), none),)
        pending = []
        for step in range(10):
            arrays = sampling(
                2,
                temperature=[0.0, 0.9],
                top_k=[-1, 20],
                repetition_penalty=[1.0, 1.3],
                seeds=[0, 5],
                steps=step,
                histories=history if step == 0 else (),
            )
            work = {0: PROMPT, 1: OTHER} if step == 0 else {0: [-1], 1: [-1]}
            pending.append(
                driver.runner.forward(driver.batch(work, sampling_arrays=arrays, logprobs=everything))
            )
        return [each.result() for each in pending]

    here, there = launch(Driver(make_runner(tiny))), launch(on_cuda(tiny))
    assert [each.tokens.tolist() for each in there] == [each.tokens.tolist() for each in here]
    for ours, theirs in zip(here, there, strict=True):
        for mine, other in zip(ours.output_logprobs, theirs.output_logprobs, strict=True):
            assert other[0] == pytest.approx(mine[0], abs=1e-4)


def test_half_precision_is_the_default(tiny: Path) -> None:
    _, expected = Driver(make_runner(tiny)).distribution(0, PROMPT)
    _, logprobs = on_cuda(tiny, dtype="auto").distribution(0, PROMPT)
    assert 1e-5 < float((logprobs - expected).abs().max()) < 0.1


def test_dummy_weights(tiny: Path) -> None:
    driver = on_cuda(tiny, load_format="dummy", max_total_tokens=None)
    assert driver.distribution(0, PROMPT)[1].isfinite().all()
    assert driver.runner.capacity.slots == 8 * TINY["max_position_embeddings"]


class Excused:
    """An attention backend that may wait for the device: the reference plans on the host."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        thing = getattr(self._backend, name)
        if not callable(thing):
            return thing

        def call(*arguments: Any) -> Any:
            mode = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("default")
            result = thing(*arguments)
            torch.cuda.set_sync_debug_mode(mode)
            return result

        return call


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_forward_pass_does_not_wait_for_the_device(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "load_attention", lambda *arguments: Excused(load_attention(*arguments)))
    driver = on_cuda(tiny)
    none = np.empty(0, np.int32)
    history = History(0, np.array(PROMPT, np.int32), none)
    driver.step({0: PROMPT, 1: OTHER}, sampling_arrays=sampling(2, histories=(history,)))
    arrays = sampling(
        2,
        presence_penalty=[0.5, 0.0],
        bias_rows=np.array([1], np.int32),
        bias_tokens=np.array([7], np.int32),
        bias_values=np.array([1.0], np.float32),
    )
    wanted = LogprobArrays(np.array([3, -1], np.int32), none, none, none)
    torch.cuda.set_sync_debug_mode("error")
    try:
        plain = driver.runner.forward(driver.batch({0: [-1], 1: [-1]}))
        changed = driver.runner.forward(
            driver.batch({1: [-1], 0: [-1]}, sampled=[0, 1], sampling_arrays=arrays, logprobs=wanted)
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (plain.result().tokens >= 0).all() and (changed.result().tokens >= 0).all()


@pytest.mark.parametrize("prompts", [(40, 33), (5,), (3, 3, 3), (90, 2, 1)])
def test_graphs_change_no_token(tiny: Path, prompts: tuple[int, ...]) -> None:
    """Of decoding requests alone, of prompts alone, of both, and of passes that share a prefix."""
    drivers = [on_cuda(tiny, disable_cuda_graph=plain) for plain in (True, False)]
    drivers[1].runner.prepare()
    outputs = []
    for driver in drivers:
        said = []
        for row, length in enumerate(prompts):
            said.append(driver.generate(row, (PROMPT + OTHER + PROMPT)[:length], 3))
        work = {row: [-1] for row in range(len(prompts))}
        for step in range(6):
            if step == 2:
                said.append(driver.step({**work, 7: OTHER}).tokens.tolist())
            said.append(driver.step(work).tokens.tolist())
        outputs.append(said)
    assert outputs[0] == outputs[1]


def test_graphs_of_every_size_compute_what_kernels_do(tiny: Path) -> None:
    driver = on_cuda(tiny, max_running_requests=40, max_total_tokens=4000)
    graphs, passes = driver.runner._graphs, driver.runner._passes
    assert graphs is not None
    rng = np.random.default_rng(0)
    for row in range(40):
        driver.step({row: rng.integers(3, 200, 1 + row).tolist()})
    for size in (1, 2, 7, 15, 33, 40):
        step = describe(driver.batch({row: [5] for row in range(size)}), passes.rows)
        with torch.inference_mode(), torch.cuda.stream(driver.runner.stream):
            plain, replayed = (run(step)[1].float().clone() for run in (passes.run, graphs.run))
            torch.testing.assert_close(replayed, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prompts", [(400, 400, 300), (1, 500, 500, 1, 500), (220,) * 9])
def test_graphs_of_many_tokens_compute_what_kernels_do(tiny: Path, prompts: tuple[int, ...]) -> None:
    driver = on_cuda(tiny, max_running_requests=16, max_total_tokens=8000)
    graphs, passes = driver.runner._graphs, driver.runner._passes
    assert graphs is not None
    rng = np.random.default_rng(0)
    work = {row: rng.integers(3, 200, length).tolist() for row, length in enumerate(prompts)}
    step = describe(driver.batch(work), passes.rows)
    with torch.inference_mode(), torch.cuda.stream(driver.runner.stream):
        plain = passes.run(step)[1].float().clone()
        replayed = graphs.run(step)
        assert replayed is not None and step.asked is not None
        torch.testing.assert_close(replayed[1].float()[step.asked.tolist()], plain, atol=1e-4, rtol=1e-4)
