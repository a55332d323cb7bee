# SPDX-License-Identifier: Apache-2.0
"""`ServeConfig`: all that a server can be told, as one frozen struct; its fields make the command line.

A new flag is one field here. Values that follow from others are computed where they are used, never written
back. The only module that reads environment variables.
"""

from __future__ import annotations

import argparse
import os
import types
from collections.abc import Iterable
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta

from sgl_runtime.errors import ConfigError

_COUNTS: Final = (
    "context_length", "max_running_requests", "max_queued_requests", "max_total_tokens", "max_prefill_tokens",
    "max_file_storage", "max_queued_batches",
)  # fmt: skip
_LONGEST: Final = 1e6  # seconds: what a timeout may be, far below what a clock or a socket takes
T = TypeVar("T", bound=msgspec.Struct)


def _flag(help: str, *aliases: str) -> Meta:
    """The help text of a field's flag, and other spellings under which it is accepted."""
    return Meta(description=help, extra={"aliases": aliases})


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to serve one model. Field names are the flags of `sgl-runtime serve`, with `_` for `-`."""

    # -- model and tokenizer
    model_path: Annotated[
        str | None,
        _flag(
            "a folder in the Hugging Face layout, a GGUF file, or a hub id; none: the demonstration model",
            "--model",
        ),
    ] = None
    tokenizer_path: Annotated[str | None, _flag("where the tokenizer is, if not with the model")] = None
    skip_tokenizer_init: Annotated[
        bool, _flag("load no tokenizer: requests carry input_ids, answers carry token ids")
    ] = False
    load_format: Annotated[
        Literal["auto", "safetensors", "pt", "gguf", "dummy"],
        _flag("which weight files to read; dummy: random weights from config.json alone"),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "half", "float16", "bfloat16", "float", "float32"],
        _flag(
            "of weights and activations; auto: bfloat16 for bfloat16 checkpoints and on a CPU, else float16"
        ),
    ] = "auto"
    context_length: Annotated[
        int | None, _flag("tokens of prompt and output together; none: what the model states")
    ] = None
    is_embedding: Annotated[
        bool,
        _flag(
            "of a model that generates text, answer with embeddings: the last token's hidden state, of "
            "length 1"
        ),
    ] = False
    served_model_name: Annotated[str | None, _flag("the name in /v1/models; none: the model path")] = None
    chat_template: Annotated[
        str | None, _flag("a built-in name, or a .jinja or .json file, in place of the model's own template")
    ] = None
    tool_call_parser: Annotated[
        Literal["hermes", "qwen25", "llama3", "llama3_json", "mistral", "mistral-named", "pythonic", "none"]
        | None,
        _flag("how the model writes calls of tools; none given: as its chat template does, else hermes"),
    ] = None
    reasoning_parser: Annotated[
        Literal["qwen3", "deepseek-r1", "magistral", "none"] | None,
        _flag(
            "how the model marks its reasoning, deepseek-r1: without opening it; none given: as its template"
            " does"
        ),
    ] = None

    # -- address
    host: Annotated[str, _flag("address to listen on")] = "127.0.0.1"
    port: Annotated[int, _flag("port to listen on"), Meta(ge=0, le=65535)] = 30000
    uds: Annotated[str | None, _flag("path of a Unix socket to listen on, in place of --host and --port")] = (
        None
    )
    ssl_certfile: Annotated[
        str | None,
        _flag("chain of certificates in PEM format: speak TLS, and HTTP/2 to clients that know it"),
    ] = None
    ssl_keyfile: Annotated[
        str | None, _flag("its private key in PEM format; none: the key is in --ssl-certfile")
    ] = None
    ssl_keyfile_password: Annotated[str | None, _flag("with which the key is encrypted")] = None
    ssl_ca_certs: Annotated[
        str | None,
        _flag("certificates in PEM format: demand one of each client that one of these has signed"),
    ] = None
    api_key: Annotated[
        str | None, _flag("demand this key as a bearer token, of every request but /health")
    ] = None
    cors_allow_origins: Annotated[
        tuple[str, ...],
        _flag("origins whose pages may call this server from a browser, or *; none: no other than its own"),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        _flag(
            "names that a Host header may have, beside addresses and localhost, or *; none: any, but without"
            " a key on a loopback address no others"
        ),
    ] = ()
    http_workers: Annotated[
        int,
        _flag("processes that answer HTTP, where one cannot carry all streams"),
        Meta(ge=1),
    ] = 1
    max_body_size: Annotated[int, _flag("bytes of a request's body, 413 beyond it"), Meta(ge=1)] = 64 * 2**20
    body_timeout: Annotated[
        float, _flag("seconds for a request's body to arrive in"), Meta(gt=0, le=_LONGEST)
    ] = 60.0
    file_storage_path: Annotated[
        str,
        _flag(
            "a folder, of this server alone, for /v1/files and /v1/batches; made when the first file comes",
            "--file-storage-pth",
        ),
        Meta(min_length=1),
    ] = "SGLang_storage"
    max_file_size: Annotated[int, _flag("bytes of an uploaded file, 413 beyond it"), Meta(ge=1)] = 200 * 2**20
    max_file_storage: Annotated[
        int | None,
        _flag("bytes of all files together, uploads beyond it get 413; none: no limit"),
    ] = None
    max_queued_batches: Annotated[
        int | None, _flag("batches under way or waiting at once, 429 beyond it; none: no limit")
    ] = None
    max_batch_lines: Annotated[
        int, _flag("requests in the file of a batch; one with more of them fails"), Meta(ge=1)
    ] = 50_000
    send_timeout: Annotated[
        float,
        _flag("seconds after which a client that takes nothing of its answer is dropped"),
        Meta(gt=0, le=_LONGEST),
    ] = 30.0
    keep_alive_timeout: Annotated[
        float,
        _flag("seconds that a connection may wait for a request, and a request's headers take"),
        Meta(gt=0, le=_LONGEST),
    ] = 75.0
    drain_timeout: Annotated[
        float,
        _flag("seconds, after SIGTERM, for answers that have begun to end by themselves"),
        Meta(ge=0, le=_LONGEST),
    ] = 25.0
    watchdog_timeout: Annotated[
        float,
        _flag("seconds after which a step that has not ended ends the server; 0: never"),
        Meta(ge=0, le=_LONGEST),
    ] = 300.0

    # -- memory and scheduling
    device: Annotated[
        Literal["auto", "cpu", "cuda"], _flag("where to compute; auto: cuda if there is one")
    ] = "auto"
    mem_fraction_static: Annotated[
        float | None,
        _flag(
            "share of the device's memory for weights and KV pool; none: 0.88, on a CPU a fifth of the free",
            "--mem-frac",
        ),
    ] = None
    max_running_requests: Annotated[
        int | None, _flag("requests computed at once; none: from the KV pool's size")
    ] = None
    max_queued_requests: Annotated[
        int | None, _flag("requests waiting at once, 503 beyond it; none: no limit")
    ] = None
    max_total_tokens: Annotated[
        int | None, _flag("size of the KV pool in tokens; none: from the memory", "--max-total-token")
    ] = None
    chunked_prefill_size: Annotated[
        int | None,
        _flag(
            "prompt tokens computed in one step for one request; 0 or less: no chunks; none: 8192, "
            "on a CPU 512"
        ),
    ] = None
    kv_cache_dtype: Annotated[
        Literal["auto", "fp8_e5m2", "fp8_e4m3"],
        _flag("of keys and values in the KV pool; auto: that of the activations"),
    ] = "auto"
    max_prefill_tokens: Annotated[
        int | None, _flag("prompt tokens computed in one step for all requests; none: 16384, on a CPU 1024")
    ] = None
    enable_mixed_chunk: Annotated[
        bool,
        _flag("let one step hold both prompt chunks and decoding requests; so it does by default"),
    ] = False
    disable_mixed_chunk: Annotated[
        bool, _flag("compute prompts in steps of their own, while decoding requests wait")
    ] = False
    schedule_policy: Annotated[
        Literal["lpm", "random", "fcfs", "dfs-weight", "lof"],
        _flag(
            "order of the waiting line: longest prefix match, random, first come first served, heaviest "
            "subtree of the prefix cache, longest output first"
        ),
    ] = "lpm"
    schedule_conservativeness: Annotated[
        float, _flag("above 1: admit fewer requests at once, for fewer retractions"), Meta(gt=0, le=1000)
    ] = 1.0
    disable_radix_cache: Annotated[bool, _flag("share no prefixes between requests", "--disable-radix")] = (
        False
    )
    disable_overlap: Annotated[
        bool, _flag("plan a step only when the one before it has ended; on a CPU this is always so")
    ] = False
    disable_regex_jump_forward: Annotated[
        bool, _flag("sample every token of a constrained text, even where its grammar leaves no choice")
    ] = False
    random_seed: Annotated[int | None, _flag("seed of everything random; none: a fresh one")] = None
    stream_interval: Annotated[int, _flag("tokens between two events of a stream"), Meta(ge=1)] = 1

    # -- parallelism and kernels
    tensor_parallel_size: Annotated[
        int, _flag("ranks that share each layer", "--tp-size", "--tp"), Meta(ge=1)
    ] = 1
    data_parallel_size: Annotated[int, _flag("replicas of the model", "--dp-size", "--dp"), Meta(ge=1)] = 1
    load_balance_method: Annotated[
        Literal["round_robin", "shortest_queue"], _flag("which replica gets a request")
    ] = "round_robin"
    attention_backend: Annotated[
        Literal["auto", "flashinfer", "triton", "reference"],
        _flag("attention kernels; auto: triton on a CUDA device, reference elsewhere"),
    ] = "auto"
    sampling_backend: Annotated[
        Literal["auto", "flashinfer", "triton", "reference"],
        _flag("sampling kernels; auto: triton on a CUDA device, reference elsewhere"),
    ] = "auto"
    disable_flashinfer: Annotated[
        bool, _flag("use no kernel of FlashInfer; so it is unless --attention-backend asks for it")
    ] = False
    disable_flashinfer_sampling: Annotated[
        bool, _flag("sample without FlashInfer; so it always is: ours needs no sort and is faster")
    ] = False
    disable_cuda_graph: Annotated[bool, _flag("launch every kernel of a step by itself")] = False
    enable_torch_compile: Annotated[
        bool, _flag("compile the model with torch.compile, on a CUDA device; the start takes minutes")
    ] = False

    # -- logging
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _flag("what to log")] = "info"
    log_level_http: Annotated[
        Literal["debug", "info", "warning", "error"] | None, _flag("the same for HTTP; none: as --log-level")
    ] = None
    log_requests: Annotated[
        bool,
        _flag(
            "log a line of JSON for every sample when it ends: sizes, times, parameters, but no text of it"
        ),
    ] = False
    log_requests_content: Annotated[bool, _flag("with --log-requests: the prompt and the output, too")] = (
        False
    )
    otlp_traces_endpoint: Annotated[
        str | None,
        _flag("URL of an OpenTelemetry collector, OTLP over HTTP: a span for every request, without text"),
    ] = None
    profile: Annotated[
        str | None,
        _flag(
            "a folder: record from the start where the time of every step goes, and write it there at the end"
        ),
    ] = None


class PrefillLimits(NamedTuple):
    """Prompt tokens of one step."""

    chunk: int  # of one request; 0 or less: prompts are not cut
    budget: int  # of all requests


def prefill_limits(config: ServeConfig, kind: str) -> PrefillLimits:
    """kind: "cpu" or "cuda". On a CPU a step of 512 tokens of a small model takes a quarter of a second."""
    chunk, budget = (8192, 16384) if kind == "cuda" else (512, 1024)
    return PrefillLimits(
        chunk if config.chunked_prefill_size is None else config.chunked_prefill_size,
        budget if config.max_prefill_tokens is None else config.max_prefill_tokens,
    )


class Environment(msgspec.Struct, frozen=True):
    """The environment variables that matter to us, read once."""

    use_modelscope: bool = False
    openai_api_key: str | None = None  # of a server that is measured

    @classmethod
    def read(cls) -> Environment:
        value = os.environ.get("SGLANG_USE_MODELSCOPE", "")
        return cls(
            use_modelscope=value.lower() not in ("", "0", "false"),
            openai_api_key=os.environ.get("OPENAI_API_KEY"),
        )


def share_cores() -> None:
    """Make threads of this process's children that wait for each other sleep soon instead of spinning.

    GNU OpenMP spins for milliseconds at the end of a parallel region. A forward pass on a CPU has hundreds of
    them, so where anything else wants a core, one waiting thread keeps the other from running: decoding took
    three times as long beside two busy processes, and as long as ever alone (docs/performance.md). A value
    set outside stays.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def bound_caches() -> None:
    """Limit what torch remembers in this process's children, on a CPU, for each shape of a product.

    Every number of rows is another shape, and each costs up to 0.7 MB: code that oneDNN has generated, and
    what torch keeps beside it. 1,024 of both are remembered unless asked otherwise. Making one again takes
    0.1 ms, and a step has a handful, used again by every layer: with 64, the products of a dozen numbers of
    rows, a step takes no longer (docs/performance.md). A value set outside stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


def add_flags(parser: argparse._ActionsContainer, options: type[msgspec.Struct] = ServeConfig) -> None:
    """Give `parser` one flag for each field of `options`, with the field's default."""
    hints = get_type_hints(options, include_extras=True)
    for field in msgspec.structs.fields(options):
        annotation = hints[field.name]
        metas = [m for m in annotation.__metadata__ if isinstance(m, Meta)]
        described = next(m for m in metas if m.description is not None)
        spellings = [flag_of(field.name), *(described.extra or {})["aliases"]]
        settings: dict[str, Any] = {
            "dest": field.name,
            "default": field.default,
            "help": described.description,
        }
        kind = _plain(annotation.__origin__)
        if kind is bool:
            parser.add_argument(*spellings, action="store_true", **settings)
        elif get_origin(kind) is Literal:
            parser.add_argument(*spellings, choices=get_args(kind), **settings)
        elif get_origin(kind) is tuple:
            each = _plain(get_args(kind)[0])
            several = {"choices": get_args(each)} if get_origin(each) is Literal else {"type": each}
            parser.add_argument(*spellings, nargs="+", **several, **settings)
        else:
            parser.add_argument(*spellings, type=kind, **settings)


def _plain(annotation: Any) -> Any:
    """`int | None` -> `int`, also where the int is annotated; anything else as it is."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (a for a in get_args(annotation) if a is not type(None))
    return annotation.__origin__ if get_origin(annotation) is Annotated else annotation


def flag_of(name: str) -> str:
    """How a field is called on the command line."""
    return "--" + name.replace("_", "-")


def flags_given(options: msgspec.Struct, names: Iterable[str]) -> list[str]:
    """The flags of those of these fields that are not as usual."""
    usual = type(options)()
    return [flag_of(name) for name in names if getattr(options, name) != getattr(usual, name)]


def options_from(values: dict[str, Any], options: type[T]) -> T:
    """A validated struct from plain values; no text in it is empty. Raises ConfigError naming the flag."""
    for field in msgspec.structs.fields(options):
        if field.default != "" and values.get(field.name) == "":
            raise ConfigError(f"{flag_of(field.name)} is empty: give a value, or leave the flag out")
    try:
        return msgspec.convert(values, options)
    except msgspec.ValidationError as error:
        raise ConfigError(_as_flags(str(error))) from None


def config_from(values: dict[str, Any]) -> ServeConfig:
    """Validated ServeConfig from plain values. Raises ConfigError naming the flag."""
    config = options_from(values, ServeConfig)
    for name in ("tokenizer_path", "chat_template", "tool_call_parser", "reasoning_parser"):
        if config.skip_tokenizer_init and getattr(config, name) is not None:
            raise ConfigError(f"{flag_of(name)} needs the tokenizer: drop --skip-tokenizer-init")
    if config.mem_fraction_static is not None and not 0 < config.mem_fraction_static < 1:
        raise ConfigError("--mem-fraction-static must lie between 0 and 1")
    if config.enable_mixed_chunk and config.disable_mixed_chunk:
        raise ConfigError("--enable-mixed-chunk and --disable-mixed-chunk exclude each other")
    if config.random_seed is not None and config.random_seed < 0:
        raise ConfigError(f"--random-seed must be at least 0, got {config.random_seed}")
    if config.log_requests_content and not config.log_requests:
        raise ConfigError("--log-requests-content goes with --log-requests: give both")
    for name in _COUNTS:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"{flag_of(name)} must be at least 1, got {value}")
    return config


def _as_flags(message: str) -> str:
    """msgspec's "... - at `$.max_total_tokens`" in the words of the command line."""
    text, _, path = message.rpartition(" - at `$.")
    return f"{flag_of(path.rstrip('`'))}: {text}" if text else message
