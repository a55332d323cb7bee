# SPDX-License-Identifier: Apache-2.0
"""Constrained decoding on the demonstration model, scheduler and runner in this process, no HTTP.

    python packages/sgl-runtime/bench/constrained.py schemas [--tokens 200] [--rows 16] [--temperature 0.8]
    python packages/sgl-runtime/bench/constrained.py character [--prompts 40] [--dtype bfloat16]
    python packages/sgl-runtime/bench/constrained.py cpu [--rows 64]

schemas: one request for each JSON schema of sgl-constrain's tests and benchmark; every answer that finishes
is checked by jsonschema. character: the regular expression of the seed project's README, temperature 0, with
and without jumping forward, one request at a time; model steps, equal texts, and for each text that differs
how near the two tokens were where they part. cpu: what a constrained row costs the scheduler in a step,
beside a row that is free, over a vocabulary of 49,152 tokens; no model, random tokens of those allowed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
from sgl_constrain.bench.cases import select
from tqdm import tqdm

from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.checkpoint.config import read_config
from sgl_runtime.checkpoint.locate import locate
from sgl_runtime.config import ServeConfig
from sgl_runtime.messages import (
    Aborted,
    Capacity,
    Constraint,
    Finish,
    Generate,
    LogprobSpec,
    Masks,
    Result,
    Sampling,
    StoppedByLength,
)
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.runner.runner import Runner
from sgl_runtime.scheduler.constraint import Grammars
from sgl_runtime.scheduler.scheduler import Scheduler
from sgl_runtime.text.constraints import compile_constraint, token_compiler
from sgl_runtime.text.tokenizer import load_tokenizer

CHARACTER = (
    r"\{\n"
    r' "name": "[\w\d\s]{1,16}",\n'
    r' "house": "(格兰芬多|斯莱特林|拉文克劳|赫奇帕奇)",\n'
    r' "blood status": "(纯血统|混血|麻瓜出身)",\n'
    r' "occupation": "(学生|教师|傲罗|魔法部|食死徒|凤凰社)",\n'
    r' "wand": \{\n'
    r' "wood": "[\w\d\s]{1,16}",\n'
    r' "core": "[\w\d\s]{1,16}",\n'
    r' "length": [0-9]{1,2}\.[0-9]{0,2}\n'
    r" \},\n"
    r' "alive": "(在世|已故)",\n'
    r' "patronus": "[\w\d\s]{1,16}",\n'
    r' "bogart": "[\w\d\s]{1,16}"\n'
    r"\}"
)
NAMES = [
    "哈利·波特", "赫敏·格兰杰", "罗恩·韦斯莱", "阿不思·邓布利多", "西弗勒斯·斯内普",
    "德拉科·马尔福", "金妮·韦斯莱", "卢娜·洛夫古德", "纳威·隆巴顿", "小天狼星·布莱克",
    "莱姆斯·卢平", "尼法朵拉·唐克斯", "鲁伯·海格", "米勒娃·麦格", "汤姆·里德尔",
    "贝拉特里克斯·莱斯特兰奇", "卢修斯·马尔福", "纳西莎·马尔福", "弗雷德·韦斯莱",
    "乔治·韦斯莱", "珀西·韦斯莱", "比尔·韦斯莱", "查理·韦斯莱", "莫丽·韦斯莱", "亚瑟·韦斯莱",
    "芙蓉·德拉库尔", "威克多尔·克鲁姆", "塞德里克·迪戈里", "秋·张", "彼得·佩迪鲁",
    "詹姆·波特", "莉莉·波特", "吉德罗·洛哈特", "多洛雷斯·乌姆里奇", "康奈利·福吉",
    "霍拉斯·斯拉格霍恩", "菲利乌斯·弗立维", "波莫娜·斯普劳特", "多比", "克利切",
]  # fmt: skip


@dataclass
class Answer:
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None
    forced: int = 0
    output: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)


class Local:
    """A replica without its channels."""

    def __init__(self, *, dtype: str) -> None:
        path = locate(None, load_format="auto", use_modelscope=False)
        self.model = read_config(path)
        config = ServeConfig(dtype=dtype, device="cpu", max_total_tokens=65_536)  # type: ignore[arg-type]
        self.tokenizer = load_tokenizer(path)
        self.runner = Runner(config, self.model, Path(path), TensorParallel.alone())
        vocab_size = self.runner.capacity.vocab_size
        compiler = token_compiler(self.tokenizer, eos=self.model.eos, vocab_size=vocab_size)
        self.grammars = Grammars(partial(compile_constraint, compiler))

    def answer(
        self, requests: Sequence[Generate], *, rows: int, jump: bool = True
    ) -> tuple[list[Answer], int]:
        """Every request's answer, and how many steps of the model they took."""
        capacity = msgspec.structs.replace(self.runner.capacity, rows=rows)
        scheduler = Scheduler(
            capacity,
            RadixCache(),
            eos=self.model.eos,
            vocabulary=self.tokenizer.vocabulary,
            grammars=self.grammars,
            encode=self.tokenizer.encode_part,
            disable_regex_jump_forward=not jump,
        )

        def masks() -> Masks | None:
            return scheduler.masks() if scheduler.constrained else None

        answers = {request.rid: Answer() for request in requests}
        for request in requests:
            scheduler.add(request)
        while not scheduler.idle:
            batch = scheduler.plan()
            deltas = [] if batch is None else scheduler.commit(self.runner.forward(batch, masks).result())
            for delta in deltas + scheduler.take_deltas():
                answer = answers[delta.rid]
                answer.tokens += delta.tokens
                answer.finish = delta.finish
                answer.forced += delta.forced
                if delta.output_logprobs is not None:
                    top = delta.output_logprobs.top
                    answer.output += [
                        (value or 0.0, most)
                        for value, most in zip(delta.output_logprobs.values, top, strict=True)
                    ]
            if batch is None:
                time.sleep(0.001)
        return list(answers.values()), scheduler.load.steps

    def text(self, answer: Answer) -> str:
        special = self.tokenizer.special
        tokens = [token for token in answer.tokens if token not in special]
        return self.tokenizer.vocabulary.join(tokens).decode(errors="replace")


def schemas() -> list[dict[str, Any] | bool]:
    root = Path(__file__).parents[2] / "sgl-constrain" / "tests" / "schemas"
    found = [json.loads(case.source) for case in select(["schema"])]
    for file in sorted(root.glob("*.json")):
        found += json.loads(file.read_text(encoding="utf-8"))
    return found


def check_schemas(options: argparse.Namespace) -> None:
    local = Local(dtype=options.dtype)
    every = schemas()
    requests = []
    for index, schema in enumerate(every):
        text = json.dumps(schema, separators=(",", ":"))
        prompt = f"<|im_start|>user\nAn example of JSON that follows this schema: {text[:400]}<|im_end|>\n"
        tokens = local.tokenizer.encode(prompt + "<|im_start|>assistant\n")
        sampling = Sampling(
            max_new_tokens=options.tokens,
            temperature=options.temperature,
            seed=index,
            constraint=Constraint("json_schema", text),
        )
        requests.append(Generate(f"r{index}", tokens, sampling))
    started = time.perf_counter()
    answers, steps = local.answer(requests, rows=options.rows)
    seconds = time.perf_counter() - started
    outcomes: Counter[str] = Counter()
    for schema, answer in zip(every, answers, strict=True):
        if isinstance(answer.finish, Aborted):
            outcomes[f"aborted: {answer.finish.reason}"] += 1
        elif isinstance(answer.finish, StoppedByLength):
            outcomes["not finished"] += 1
        else:
            valid = jsonschema.validators.validator_for(schema)(schema).is_valid(
                json.loads(local.text(answer))
            )
            outcomes["finished and valid" if valid else "finished and INVALID"] += 1
            if not valid:
                print(f"INVALID: {json.dumps(schema)}\n{local.text(answer)}")
    tokens = sum(len(answer.tokens) for answer in answers)
    forced = sum(answer.forced for answer in answers)
    print(f"{len(every)} schemas, {tokens} tokens, {forced} of them forced, {steps} steps, {seconds:.0f} s")
    for name, count in outcomes.most_common():
        print(f"{count:5d} {name}")


def compare_jumps(options: argparse.Namespace) -> None:
    local = Local(dtype=options.dtype)
    sampling = Sampling(max_new_tokens=256, temperature=0.0, constraint=Constraint("regex", CHARACTER))
    equal = finished = 0
    ratios, taken = [], [0, 0]
    for name in tqdm(NAMES[: options.prompts]):
        prompt = local.tokenizer.encode(
            f"{name}是《哈利·波特》中的一个角色。请填写以下关于这个角色的信息。\n"
        )
        sides = []
        for index, jump in enumerate((True, False)):
            (answer,), steps = local.answer([Generate("r", prompt, sampling)], rows=1, jump=jump)
            taken[index] += steps
            sides.append((answer, steps))
        (with_jump, few), (without, many) = sides
        ratios.append(many / few)
        finished += not isinstance(with_jump.finish, StoppedByLength)
        if with_jump.tokens == without.tokens:
            equal += 1
        else:
            print(f"{name}: {_parting(local, prompt, with_jump.tokens, without.tokens)}", flush=True)
    count = len(ratios)
    print(f"{options.dtype}: {equal} of {count} texts are equal, {finished} finished")
    print(
        f"steps with and without jumping: {taken[0]} and {taken[1]}, {taken[1] / taken[0]:.2f} times;"
        f" by prompt {min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}"
    )


def _parting(local: Local, prompt: list[int], left: list[int], right: list[int]) -> str:
    """Where two outputs part, and how far apart their tokens are there, computed once more by itself."""
    place = next(i for i, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    request = Generate(
        "again",
        prompt + left[:place],
        Sampling(max_new_tokens=1, temperature=0.0),
        LogprobSpec(top=local.runner.capacity.vocab_size),
    )
    (answer,), _ = local.answer([request], rows=1)
    values = dict(answer.output[0][1])
    one, other = left[place], right[place]
    spelled = local.tokenizer.vocabulary
    return (
        f"token {place} is {spelled[one]!r} with jumps and {spelled[other]!r} without;"
        f" log-probabilities {values[one]:.4f} and {values[other]:.4f}"
    )


def cost(options: argparse.Namespace) -> None:
    tokenizer = load_tokenizer(locate(None, load_format="auto", use_modelscope=False))
    rng = np.random.default_rng(0)
    size = len(tokenizer.vocabulary)
    compiler = token_compiler(tokenizer, eos=[2], vocab_size=size)
    kinds = {
        "free": None,
        "string": Constraint("regex", r'"[^"\\]{1,4000}"'),
        "json": Constraint("json_schema", '{"type":"array","items":{"type":"object"}}'),
        "character": Constraint("regex", CHARACTER),
    }
    for name, constraint in kinds.items():
        capacity = Capacity(
            slots=options.rows * 2048, rows=options.rows, context_length=2048, vocab_size=size
        )
        scheduler = Scheduler(
            capacity,
            RadixCache(),
            eos=[2],
            vocabulary=tokenizer.vocabulary,
            grammars=Grammars(partial(compile_constraint, compiler)),
            encode=tokenizer.encode_part,
            max_prefill_tokens=1 << 30,
        )
        for index in range(10 * options.rows):
            prompt = rng.integers(3, size, 64).tolist()
            sampling = Sampling(max_new_tokens=1500, ignore_eos=True, constraint=constraint)
            scheduler.add(Generate(f"r{index}", prompt, sampling))
        steps: list[tuple[float, float, float]] = []
        tokens = 0
        while len(steps) < 300 and not scheduler.idle:
            start = time.thread_time()
            batch = scheduler.plan()
            planned = time.thread_time()
            if batch is None:
                continue
            masks = scheduler.masks() if scheduler.constrained else None
            masked = time.thread_time()
            sampled = rng.integers(3, size, len(batch.sampled)).astype(np.int32)
            if masks is not None:
                for row, bits in zip(masks.rows.tolist(), masks.bits, strict=True):
                    allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
                    sampled[row] = rng.choice(allowed)
            began = time.thread_time()
            deltas = scheduler.commit(Result(sampled))
            tokens += sum(len(delta.tokens) for delta in deltas)
            steps.append((planned - start, masked - planned, time.thread_time() - began))
        late = np.array(steps[len(steps) // 3 :]) * 1e6 / options.rows
        plan, mask, commit = np.median(late, axis=0)
        worst = np.array(steps).sum(axis=1).max() * 1e3
        print(
            f"{name:10s} {options.rows} rows: µs a row and step, median: plan {plan:.1f}, masks {mask:.1f},"
            f" commit {commit:.1f}, mean of all three {late.sum(axis=1).mean():.1f};"
            f" slowest step {worst:.1f} ms; {tokens / len(steps) / options.rows:.2f} tokens a row and step"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("schemas", "character", "cpu"))
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=len(NAMES))
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    {"schemas": check_schemas, "character": compare_jumps, "cpu": cost}[options.what](options)


if __name__ == "__main__":
    main()
