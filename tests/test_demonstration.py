# SPDX-License-Identifier: Apache-2.0
"""What a newcomer does first, against the real demonstration model."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
import sgl_lang as sgl
from live import ROOT, Server
from sgl_lang.default import default_backend

EXAMPLES = ROOT / "examples"


def test_the_printed_curl_works_when_pasted(demonstration: Server) -> None:
    text = "".join(demonstration.out)
    command = text[text.index("curl ") :].rstrip("\n")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["text"] and answer["meta_info"]["completion_tokens"] == 16
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 16}


def test_the_start_up_is_broken_down_into_phases(demonstration: Server) -> None:
    breakdown = next(line for line in demonstration.err if "start-up:" in line)
    assert re.search(r"api: .*tokenizer \d+\.\d s; replica0: .*weights and KV pool \d+\.\d s", breakdown)


def test_health_says_process_and_engine(demonstration: Server) -> None:
    assert demonstration.http.get("/health").status_code == 200
    assert demonstration.http.get("/health_generate").status_code == 200


def test_model_and_server_information(demonstration: Server) -> None:
    info = demonstration.http.get("/get_model_info").json()
    assert info["is_generation"] is True and "SmolLM2" in info["model_path"]
    assert info["chat_template"]["roles"]["user"] == ["<|im_start|>user\n", "<|im_end|>\n"]
    assert demonstration.http.get("/get_server_args").json()["schedule_policy"] == "lpm"
    assert demonstration.load()["slots"] > 8192


def test_a_shared_prefix_is_computed_once(demonstration: Server) -> None:
    prefix = " ".join(f"Item {n} of the list costs {n * 7 % 31} coins." for n in range(100))
    sampling = {"max_new_tokens": 4, "temperature": 0}
    first = demonstration.generate(text=prefix + " Which one is dear?", sampling_params=sampling)
    second = demonstration.generate(text=prefix + " Which one is cheap?", sampling_params=sampling)
    assert first["meta_info"]["prompt_tokens"] > 1000
    assert second["meta_info"]["cached_tokens"] > 1000
    assert second["meta_info"]["prompt_tokens"] - second["meta_info"]["cached_tokens"] < 10


def test_the_official_client_chats(demonstration: Server) -> None:
    client = openai.OpenAI(base_url=f"{demonstration.url}/v1", api_key="EMPTY", max_retries=0)
    messages: Any = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the capital of France? Answer in one word."},
    ]
    whole = client.chat.completions.create(model="default", messages=messages, temperature=0, max_tokens=32)
    assert "Paris" in (whole.choices[0].message.content or "")
    assert whole.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(
        model="default", messages=messages, temperature=0, max_tokens=32, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert [model.id for model in client.models.list()] == ["SmolLM2-135M-Instruct.Q4_1"]
    client.close()


def test_the_official_client_completes(demonstration: Server) -> None:
    client = openai.OpenAI(base_url=f"{demonstration.url}/v1", api_key="EMPTY", max_retries=0)
    answer = client.completions.create(
        model="default",
        prompt=["The capital of France is", "法国的首都是"],
        temperature=0,
        max_tokens=8,
        logprobs=2,
    )
    assert "Paris" in answer.choices[0].text
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].logprobs is not None and len(answer.choices[0].logprobs.tokens or []) == 8
    with pytest.raises(openai.BadRequestError, match="top_p"):
        client.completions.create(model="default", prompt="x", top_p=2)
    client.close()


@pytest.mark.parametrize("example", ["multi_turn.py", "multi_turn_zh.py", "streaming.py"])
def test_the_examples_run_unchanged(
    demonstration: Server, example: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """But for the port, which is this test's own."""
    program = (EXAMPLES / example).read_text().replace("http://localhost:30000", demonstration.url)
    (tmp_path / example).write_text(program)
    variables = runpy.run_path(str(tmp_path / example))
    printed = capsys.readouterr().out
    backend = default_backend()
    assert isinstance(backend, sgl.RuntimeEndpoint)
    backend.close()
    state = variables["state"]
    if example.startswith("multi_turn"):
        assert [m["role"] for m in state.messages()] == ["system", "user", "assistant", "user", "assistant"]
        assert state["answer_1"] and state["answer_2"] and printed.endswith(state["answer_1"] + "\n")
        assert state.get_meta_info("answer_2")["cached_tokens"] > 20
    else:
        assert printed == state.text() + "\n" and state["answer"] in printed


def test_a_client_that_leaves_frees_its_request_at_once(demonstration: Server) -> None:
    """Steps of this model take long enough to count how many were made for nobody."""
    body = {
        "text": "Once upon a time",
        "sampling_params": {"max_new_tokens": 2000, "ignore_eos": True},
        "stream": True,
    }
    before = demonstration.load()["generated_tokens"]
    with demonstration.http.stream("POST", "/generate", json=body) as response:
        events = (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {"))
        seen = [event["meta_info"]["completion_tokens"] for event, _ in zip(events, range(10), strict=False)]
    while (load := demonstration.load())["running"]:
        pass
    surplus = load["generated_tokens"] - before - seen[-1]
    print(f"{surplus} tokens after the client had left")
    assert load["slots_used"] == 0
    assert surplus < 50


def test_the_readme_s_python_runs(demonstration: Server, tmp_path: Path) -> None:
    """Every Python block of the README, in a fresh interpreter."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for number, block in enumerate(blocks):
        script = tmp_path / f"block{number}.py"
        script.write_text(
            block.replace("http://localhost:30000", demonstration.url).replace(
                "http://127.0.0.1:30000", demonstration.url
            )
        )
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_a_program_streams_what_it_would_have_said(demonstration: Server) -> None:
    @sgl.function
    def chat(s: Any) -> None:
        s += sgl.user("Name a colour.")
        s += sgl.assistant(sgl.gen("colour", max_tokens=12, temperature=0))

    with sgl.RuntimeEndpoint(demonstration.url) as backend:
        whole = chat.run(backend=backend)
        streamed = chat.run(backend=backend, stream=True)
        assert "".join(streamed.text_iter("colour")) == whole["colour"]
        assert streamed.text() == whole.text()
