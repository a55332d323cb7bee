# SPDX-License-Identifier: Apache-2.0
"""A real server on a CUDA device says, in float32, what one on the CPU says, whatever its flags."""

from __future__ import annotations

import importlib.util
import json
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import ROOT, Server, running

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

PROMPTS = [
    [*range(5, 45)],
    [*range(90, 57, -1)],
    [7, 8, 9],
    [*range(5, 45), 3, 4],
    [11 + i * 7 % 200 for i in range(1300)],  # more than a CUDA graph is for
]
# Others share the device, so memory is asked for by the token.
COMMON = ("--dtype", "float32", "--max-total-tokens", "6000")
FLAGS: dict[str, tuple[str, ...]] = {
    "none": (),
    "no graphs": ("--disable-cuda-graph",),
    "no overlap": ("--disable-overlap",),
    "no cache": ("--disable-radix-cache",),
    "no mixed chunks": ("--disable-mixed-chunk", "--chunked-prefill-size", "64"),
    "chunks": ("--chunked-prefill-size", "64"),
    "no flashinfer": ("--disable-flashinfer", "--disable-flashinfer-sampling"),
    "reference": ("--attention-backend", "reference", "--sampling-backend", "reference"),
    "compiled": ("--enable-torch-compile",),
    "few rows": ("--max-running-requests", "2", "--schedule-conservativeness", "0.3"),
    "little memory": ("--max-total-tokens", "1500"),
    "fcfs": ("--schedule-policy", "fcfs", "--stream-interval", "4"),
}


def said(server: Server) -> list[list[int]]:
    """Greedy tokens after each prompt, alone and all at once: the same."""
    sampling = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
    asked = {"sampling_params": sampling, "return_logprob": True, "logprob_start_len": -1}

    def tokens(answer: dict[str, Any]) -> list[int]:
        return [token for _, token, _ in answer["meta_info"]["output_token_logprobs"]]

    alone = [tokens(server.generate(input_ids=prompt, **asked)) for prompt in PROMPTS]
    together: Any = server.generate(input_ids=PROMPTS, **asked)
    assert [tokens(answer) for answer in together] == alone
    return alone


@pytest.fixture(scope="module")
def long(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, of which positions are asked that it was not made for: no weight depends on them."""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("long") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    return folder


@pytest.fixture(scope="module")
def expected(long: Path) -> Iterator[list[list[int]]]:
    with running("--model-path", str(long), "--device", "cpu", *COMMON) as server:
        yield said(server)


def on_cuda(long: Path, *flags: str) -> list[list[int]]:
    with running("--model-path", str(long), "--device", "cuda", *COMMON, *flags) as server:
        return said(server)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_flags_change_no_token(long: Path, expected: list[list[int]], flags: tuple[str, ...]) -> None:
    assert on_cuda(long, *flags) == expected


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heads of a width that FlashInfer has kernels for."""
    tool = runpy.run_path(str(ROOT / "tools" / "tiny_checkpoint.py"))
    shape = {**tool["TINY"], "head_dim": 64, "max_position_embeddings": 2048}
    folder: Path = tool["write_checkpoint"](tmp_path_factory.mktemp("wide"), shape)
    return folder


@pytest.mark.skipif(importlib.util.find_spec("flashinfer") is None, reason="flashinfer is not installed")
@pytest.mark.timeout(900)  # it compiles when it is first used
def test_flashinfer_says_the_same(wide: Path) -> None:
    """In bfloat16, since it has no float32: so it need not be what the CPU says, but what Triton's says, and
    only until two tokens are nearly tied."""
    sampling = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
    asked = {"sampling_params": sampling, "return_logprob": True, "logprob_start_len": -1}
    answers: list[Any] = []
    for backend in ("triton", "flashinfer"):
        flags = ("--device", "cuda", *COMMON, "--dtype", "bfloat16", "--attention-backend", backend)
        with running("--model-path", str(wide), *flags) as server:
            answers.append(server.generate(input_ids=PROMPTS, **asked))
    for ours, theirs in zip(*answers, strict=True):
        pairs = zip(*(each["meta_info"]["output_token_logprobs"] for each in (ours, theirs)), strict=True)
        for (our_score, our_token, _), (their_score, their_token, _) in pairs:
            assert abs(our_score - their_score) < 0.3, (ours, theirs)
            if our_token != their_token:
                break


@pytest.mark.parametrize("kind", ["fp8_e5m2", "fp8_e4m3"])
def test_eight_bit_caches_answer(long: Path, expected: list[list[int]], kind: str) -> None:
    """Not the same tokens for long, but the first of most."""
    first = [tokens[0] for tokens in on_cuda(long, "--kv-cache-dtype", kind)]
    assert sum(ours == tokens[0] for ours, tokens in zip(first, expected, strict=True)) >= len(PROMPTS) - 2
