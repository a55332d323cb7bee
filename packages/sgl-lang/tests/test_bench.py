# SPDX-License-Identifier: Apache-2.0
"""The benchmark compares like with like: each program and its plain twin ask the model for the same."""

from __future__ import annotations

import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from sgl_lang import Scripted

BENCH = Path(__file__).parents[1] / "bench"
CASES = (
    "tree of thought",
    "ReAct",
    "multi-document QA",
    "few-shot (MMLU-like)",
    "LLM judge",
    "JSON decoding",
)


def says(prompt: str) -> str:
    return " " + "abcdefgh"[: zlib.crc32(prompt.encode()) % 8 + 1]


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    import programs

    yield programs.CASES
    for name in ("programs", "data"):
        del sys.modules[name]


@pytest.mark.parametrize("name", CASES)
def test_a_program_and_its_plain_twin_ask_for_the_same(cases: Any, name: str) -> None:
    assert tuple(cases) == CASES
    case = cases[name]
    backend = Scripted(lambda prompt, params: says(prompt.text))
    state = case.program.run(case.argument(1), backend=backend)
    assert state.error() is None
    asked, lock = [], threading.Lock()

    def ask(prompt: str, max_tokens: int, stop: str | None = None) -> str:
        with lock:
            asked.append((prompt, max_tokens, () if stop is None else (stop,)))
        return says(prompt)

    returned = case.plain(ask, case.argument(1))
    ours = [(call.prompt.text, call.params.max_new_tokens, call.params.stop) for call in backend.calls]
    assert sorted(asked) == sorted(ours)
    assert returned == state.ret_value
