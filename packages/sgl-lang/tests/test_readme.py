# SPDX-License-Identifier: Apache-2.0
"""The README's programs run as they stand, one after another, against a server on loopback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sgl_lang
from sgl_lang.default import _default

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_programs_of_the_readme(runtime, monkeypatch, capsys):
    runtime.answer = lambda body: ["Paris", "Paris, Rome"]
    monkeypatch.setattr(_default, "backend", None)
    endpoint = sgl_lang.RuntimeEndpoint(runtime.url)
    monkeypatch.setattr(sgl_lang, "RuntimeEndpoint", lambda url: endpoint, raising=False)
    monkeypatch.setattr(sgl_lang, "OpenAI", lambda model: endpoint, raising=False)
    assert len(BLOCKS) == 13
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), {"__name__": "__main__"})
    endpoint.close()
    told = capsys.readouterr().out
    assert "assistant : Paris, Rome\nParis, Rome\ncalculator\n" in told
    assert "Q: What is the capital of France?\nA:Paris, Rome" in told
    assert "['Paris, Rome', 'Paris, Rome', 'Paris, Rome']" in told
    assert "Paris, Rome ['Paris, Rome', 'Paris, Rome']\n" in told  # the coroutine
    assert "Answer:Paris, Rome" in told


@pytest.mark.parametrize("name", sgl_lang.__all__)
def test_the_readme_tells_of_every_public_name(name):
    begin_and_end = name.removesuffix("_begin").removesuffix("_end")
    assert re.search(rf"`{begin_and_end}[`(]", README.read_text(encoding="utf-8")) or name in (
        "__version__",
        "Expr",
    )
