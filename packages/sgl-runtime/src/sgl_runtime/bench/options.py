# SPDX-License-Identifier: Apache-2.0
"""What the two benchmarks can be told; as with `ServeConfig`, the fields make the command line."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Backend = Literal[
    "sgl", "sglang", "openai", "openai-chat", "vllm", "vllm-chat", "sglang-oai", "sglang-oai-chat",
    "lmdeploy", "trt", "tgi", "triton", "lightllm", "gserver", "mii", "ollama",
]  # fmt: skip
Dataset = Literal["random", "chat", "shared-prefix", "multi-turn", "sharegpt"]
Workload = Literal[
    "latency", "batch32", "offline", "online", "prefix", "multiturn", "long", "structured", "all"
]
LEAST_VOCABULARY = 8  # ids, of which random prompts can be made
Count = Annotated[int, Meta(ge=1)]


def _flag(help: str, *aliases: str) -> Meta:
    return Meta(description=help, extra={"aliases": aliases})


class LatencyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Of `bench latency`, beside those of the server."""

    run_name: Annotated[str, _flag("a name for the results of this run")] = "before"
    batch_size: Annotated[
        tuple[Count, ...],
        _flag("requests in the batch; several: one after another", "--batch"),
    ] = (1,)
    input_len: Annotated[
        tuple[Count, ...],
        _flag("tokens of each prompt; several: each is tried", "--input"),
    ] = (1024,)
    output_len: Annotated[
        tuple[Count, ...],
        _flag("tokens generated for each; several: each is tried", "--output"),
    ] = (16,)
    result_filename: Annotated[str, _flag("append one JSON line for each point to this file")] = ""
    correctness_test: Annotated[
        bool,
        _flag(
            "measure nothing: compare whole prompts with prompts whose beginning is in the prefix cache",
            "--correct",
        ),
    ] = False
    cut_len: Annotated[
        Count, _flag("tokens of each prompt that are in the cache in the correctness test")
    ] = 4
    graph_sql: Annotated[
        str | None,
        _flag(
            "run nothing, draw --result-filename: a query of its rows, `results`, for a line's name, x and y"
        ),
    ] = None
    graph_filename: Annotated[
        str | None, _flag("draw the results into this file; none: out.png with --graph-sql, else nothing")
    ] = None


class ServingOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Of `bench serving`."""

    # -- the server
    backend: Annotated[
        Backend,
        _flag(
            "what listens: sgl and sglang by /generate, the others by OpenAI's API; some are refused by name"
        ),
    ] = "sgl"
    base_url: Annotated[str | None, _flag("where it listens, in place of --host and --port")] = None
    host: Annotated[str, _flag("where it listens")] = "127.0.0.1"
    port: Annotated[
        Annotated[int, Meta(ge=1, le=65535)] | None,
        _flag("none: the backend's own default, 30000, 8000 or 23333"),
    ] = None
    uds: Annotated[str | None, _flag("path of the Unix socket where it listens")] = None
    model: Annotated[str | None, _flag("model name; none: the first of /v1/models")] = None
    tokenizer: Annotated[
        str | None,
        _flag("folder, GGUF file or hub id of the tokenizer, for text prompts and for counting again"),
    ] = None
    vocab_size: Annotated[
        Annotated[int, Meta(ge=LEAST_VOCABULARY)] | None,
        _flag("random prompts are ids below it; none: as the tokenizer or the server says"),
    ] = None
    api_key: Annotated[str | None, _flag("sent as a bearer token; none: the variable OPENAI_API_KEY")] = None

    # -- what is asked
    dataset_name: Annotated[
        Dataset | None, _flag("how requests are made; none: sharegpt with --dataset-path, else chat")
    ] = None
    dataset_path: Annotated[str | None, _flag("a JSON file of conversations as ShareGPT has them")] = None
    workloads: Annotated[
        tuple[Workload, ...] | None,
        _flag("fixed workloads, one after another, in place of a data set; all: each of them", "--workload"),
    ] = None
    num_prompts: Annotated[Count, _flag("requests", "--num-prompt")] = 1000
    sharegpt_output_len: Annotated[
        Count | None,
        _flag("tokens generated for each; none: as many as the conversation's answer has"),
    ] = None
    random_input_len: Annotated[
        Count, _flag("prompt tokens of random, and of the first turn of multi-turn", "--random-input")
    ] = 1024
    random_output_len: Annotated[
        Count, _flag("tokens generated; not of chat and sharegpt", "--random-output")
    ] = 128
    random_range_ratio: Annotated[
        float,
        _flag("lengths of random are uniform between this share of the length and it"),
        Meta(ge=0, le=1),
    ] = 0.0
    num_prefixes: Annotated[Count, _flag("different prefixes of shared-prefix")] = 32
    prefix_len: Annotated[Count, _flag("tokens of each of them")] = 2048
    unique_len: Annotated[Count, _flag("tokens of its own that a request of shared-prefix has")] = 64
    turns: Annotated[Count, _flag("of each conversation of multi-turn")] = 6
    turn_len: Annotated[Count, _flag("tokens that each later turn of multi-turn adds")] = 160

    # -- how it is asked
    request_rate: Annotated[
        float, _flag("requests a second, arriving as a Poisson process; inf: all at once"), Meta(gt=0)
    ] = math.inf
    multi: Annotated[bool, _flag("one run for each rate of --request-rate-range")] = False
    request_rate_range: Annotated[
        str | None, _flag("first rate, end (not in it) and step; implies --multi; none: 2,34,2 with --multi")
    ] = None
    max_concurrency: Annotated[Count | None, _flag("requests in flight at once; none: no limit")] = None
    warmup_requests: Annotated[int, _flag("requests before the first run"), Meta(ge=0)] = 1
    seed: Annotated[int, _flag("of prompts, lengths and arrivals")] = 0
    disable_stream: Annotated[bool, _flag("ask for whole answers: no times of tokens are known")] = False
    disable_ignore_eos: Annotated[
        bool, _flag("let answers end by themselves; for servers that do not know ignore_eos")
    ] = False
    extra_request_body: Annotated[str | None, _flag("a JSON object, laid over the body of every request")] = (
        None
    )
    timeout: Annotated[float, _flag("seconds that one request may take"), Meta(gt=0, le=1e6)] = 21600.0

    # -- what is told
    output_file: Annotated[str | None, _flag("append one JSON line for each run to this file")] = None
    graph_filename: Annotated[str | None, _flag("draw the distributions of latency into this file")] = None
    disable_tqdm: Annotated[bool, _flag("show no progress")] = False
    label: Annotated[str, _flag("a name for the results of this run")] = ""
