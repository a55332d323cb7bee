# SPDX-License-Identifier: Apache-2.0
"""Programs per second of the paper's programs, and of the same written plainly.

    python packages/sgl-lang/bench [--programs 8] [--only "LLM judge"] [--model-path ...] [--json FILE]

This language runs on a server as it comes; the plain programs ask the OpenAI API of the same server started
with --disable-radix-cache, as many at once. Every case begins with an empty cache.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
from programs import CASES, Case

import sgl_lang as sgl


def _with_language(case: Case, backend: sgl.Runtime, programs: int) -> tuple[float, float]:
    """Programs per second, and the share of prompt tokens that came from the cache."""
    backend.flush_cache()
    batch = [(case.argument(i),) for i in range(programs)]
    start = time.perf_counter()
    states = case.program.run_batch(batch, backend=backend, num_threads=programs, temperature=0)
    seconds = time.perf_counter() - start
    for state in states:
        if (error := state.error()) is not None:
            raise error
    usages = [state.usage() for state in states]
    cached = sum(usage.cached_tokens for usage in usages) / sum(usage.prompt_tokens for usage in usages)
    return programs / seconds, cached


def _plainly(case: Case, client: openai.OpenAI, programs: int) -> float:
    def ask(prompt: str, max_tokens: int, stop: str | None = None) -> str:
        answer = client.completions.create(
            model="default", prompt=prompt, max_tokens=max_tokens, stop=stop, temperature=0
        )
        return answer.choices[0].text

    start = time.perf_counter()
    with ThreadPoolExecutor(programs) as pool:
        for _ in pool.map(lambda i: case.plain(ask, case.argument(i)), range(programs)):
            pass
    return programs / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", type=int, default=8)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--model-path")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cases = {name: case for name, case in CASES.items() if args.only in (None, name)}
    with (
        sgl.Runtime(args.model_path, disable_radix_cache=True) as bare,
        openai.OpenAI(base_url=f"{bare.url}/v1", api_key="EMPTY", timeout=3600) as client,
    ):
        plain = {name: _plainly(case, client, args.programs) for name, case in cases.items()}
    with sgl.Runtime(args.model_path) as backend:
        ours = {name: _with_language(case, backend, args.programs) for name, case in cases.items()}
    rows = [
        {
            "program": name,
            "programs_per_s": round(ours[name][0], 3),
            "cache_hit_rate": round(ours[name][1], 3),
            "plain_programs_per_s": round(plain[name], 3),
            "ratio": round(ours[name][0] / plain[name], 2),
        }
        for name in cases
    ]
    print("| program | programs/s | cache hit rate | plain programs/s | ratio |\n|---|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row['program']} | {row['programs_per_s']} | {row['cache_hit_rate']:.0%} |"
            f" {row['plain_programs_per_s']} | {row['ratio']}x |"
        )
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
