# SPDX-License-Identifier: Apache-2.0
"""Every program under examples/ that speaks to a server of ours, as it stands, on scripted answers."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sgl_lang as sgl
from sgl_lang import Scripted
from sgl_lang.default import _default

EXAMPLES = Path(__file__).parents[3] / "examples"
CHARACTER = """{
    "name": "哈利",
    "house": "格兰芬多",
    "blood status": "混血",
    "occupation": "学生",
    "wand": {
        "wood": "冬青木",
        "core": "凤凰羽毛",
        "length": 11.0
    },
    "alive": "在世",
    "patronus": "牡鹿",
    "bogart": "摄魂怪"
}"""
ANSWERS: dict[str, Any] = {
    "multi_turn.py": {"answer_1": "Washington, D.C.", "answer_2": "The Mall and the Zoo."},
    "multi_turn_zh.py": {"answer_1": "华盛顿。", "answer_2": "白宫和国会山。"},
    "streaming.py": {"answer": "Paris"},
    "tool_use.py": {"tool": "calculator", "expression": " 2 + 3 * 4"},
    "tool_use_zh.py": {"tool": "搜索引擎", "word": "二加三"},
    "parallel_tips.py": {"detailed_tip": ["Eat.", "Move."], "summary": " live well."},
    "image_qa.py": {"answer": "A dot."},
    "regular_expression.py": {"answer": "8.8.8.8"},
    "character_regex_zh.py": {"json_output": CHARACTER},
    "json_schema.py": {
        "json_output": '{"name": "Harry", "house": "Gryffindor", "alive": true,'
        ' "wand": {"wood": "holly", "length": 11}}'
    },
    "batch.py": {"answer": [" London", " Paris", " Tokyo"]},
    "chat_roles.py": {"answer": "Paris"},
    "async_debate.py": {"argument": "It is.", "verdict": " it depends."},
}


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[..., tuple[dict[str, Any], str, Scripted]]:
    """Runs an example on its answers: its variables, what it printed, and the backend."""

    def play(example: str, *args: str) -> tuple[dict[str, Any], str, Scripted]:
        backend = Scripted(ANSWERS[example])
        monkeypatch.setattr(_default, "backend", None)
        monkeypatch.setattr(sgl, "RuntimeEndpoint", lambda url: backend, raising=False)
        monkeypatch.setattr(sys, "argv", [example, *args])
        variables = runpy.run_path(str(EXAMPLES / example), run_name="__main__")
        return variables, capsys.readouterr().out, backend

    return play


@pytest.mark.parametrize("example", ANSWERS)
def test_an_example_says_what_its_model_says(play, tmp_path, example):
    picture = tmp_path / "cat.gif"
    picture.write_bytes(b"GIF89a")
    _, printed, backend = play(example, str(picture))
    answers = [
        answer
        for entry in ANSWERS[example].values()
        for answer in ([entry] if isinstance(entry, str) else entry)
    ]
    told = printed + "".join(call.prompt.text for call in backend.calls)
    assert all(answer.strip() in told for answer in answers)


def test_every_example_for_our_server_is_here():
    ours = {
        path.name for path in EXAMPLES.glob("*.py") if "RuntimeEndpoint(" in path.read_text(encoding="utf-8")
    }
    assert ours <= ANSWERS.keys()


def test_the_image_is_shown(play, tmp_path):
    picture = tmp_path / "cat.gif"
    picture.write_bytes(b"GIF89a")
    _, _, backend = play("image_qa.py", str(picture))
    assert backend.calls[0].prompt.media == (sgl.Image(b"GIF89a", None, "image/gif"),)


def test_the_constraints_are_asked_for_and_fit(play):
    for example in ("regular_expression.py", "character_regex_zh.py"):
        _, _, backend = play(example)
        pattern = backend.calls[0].params.regex
        assert re.fullmatch(pattern, *ANSWERS[example].values())
    variables, _, backend = play("json_schema.py")
    assert variables["character"]["house"] == "Gryffindor"
    schema = json.loads(backend.calls[0].params.json_schema)
    assert schema["$defs"]["Character"]["required"] == ["name", "house", "alive", "wand"]


def test_forks_are_asked_for_together(play):
    _, printed, backend = play("parallel_tips.py")
    assert [call.prompt.name for call in backend.calls] == ["detailed_tip", "detailed_tip", "summary"]
    assert len(backend.warmed) == 1
    assert "Usage(prompt_tokens=" in printed
