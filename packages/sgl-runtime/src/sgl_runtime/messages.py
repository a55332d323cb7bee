# SPDX-License-Identifier: Apache-2.0
"""Every struct that crosses a process boundary; the nouns of the runtime on one page.

api process -> replica:      `Generate | Abort | Flush | Profile`  (`ToReplica`)
replica     -> api process:  `Step | Flushed | Profiled`       (`FromReplica`; to the one that asked)
leader      -> followers:    `Batch | Halt`                    (`ToFollower`)
child       -> launcher:     `Ready | Failed`                  (`FromChild`, once, over a pipe)
launcher    -> api process:  `Open | Died`                     (`ToApi`, over the same pipe)

Everything is a frozen msgspec struct encoded as msgpack; arrays travel as raw little-endian bytes. The module
knows no socket, no torch, no tokenizer. After `engine.prepare` every value here is valid.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias
from uuid import uuid4

import msgspec
import numpy as np
from numpy.typing import NDArray

I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
F32: TypeAlias = NDArray[np.float32]

Answers: TypeAlias = Literal["text", "embeddings", "scores"]  # what a model gives: the last are of classes


def new_rid(home: int) -> str:
    """A name on the wire that is never used twice, for what the api process of that number asks."""
    return f"{home}.{uuid4().hex}"


def home_of(rid: str) -> int:
    """The number of the api process that asked."""
    return int(rid[: rid.index(".")])


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """A member of one of the unions below; its class name is its tag on the wire."""


class Value(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A part of a message."""


# ------------------------------------------------------------------------------------------------- requests


class Constraint(Value, frozen=True):
    """The texts that a request may be answered with; each is known to compile."""

    kind: Literal["regex", "json_schema", "ebnf"]
    text: str  # a pattern as in Python's `re`; a schema as JSON; a grammar in llama.cpp's or Lark's notation


class Sampling(Value, frozen=True):
    """How the tokens of one request are chosen and when it ends. Every field is already validated."""

    max_new_tokens: int = 128  # 0: compute the prompt, sample nothing
    min_new_tokens: int = 0  # eos and stop tokens are forbidden before this many
    temperature: float = 1.0  # 0.0: greedy
    top_p: float = 1.0
    top_k: int = -1  # -1: all
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0  # [0, 2**63); the same seed and logits give the same tokens
    stop: tuple[bytes, ...] = ()  # stop strings, UTF-8
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    constraint: Constraint | None = None


class LogprobSpec(Value, frozen=True):
    """Which log-probabilities a request wants beside its tokens."""

    start: int = -1  # first prompt position whose log-probability is returned; -1: none of the prompt
    top: int = 0  # how many of the most likely tokens beside each
    after: tuple[int, ...] = ()  # tokens whose log-probabilities behind the prompt are returned with its own


class Generate(Message, frozen=True):
    rid: str
    tokens: list[int]  # the prompt, never empty
    sampling: Sampling
    logprobs: LogprobSpec | None = None
    every: int = 1  # output tokens that are worth a Delta; the first one, and the end, come at once


class Abort(Message, frozen=True):
    """Forget the request. No answer: the sender has stopped listening. Unknown ids are ignored."""

    rid: str


class Flush(Message, frozen=True):
    """Empty the prefix cache, if nothing is running or waiting."""

    rid: str


class Profile(Message, frozen=True):
    """Begin to record where the time of the steps goes, or end it and write into `folder`."""

    rid: str
    folder: str | None = None  # None: begin


ToReplica: TypeAlias = Generate | Abort | Flush | Profile

# ------------------------------------------------------------------------------------------------- answers


class StoppedByToken(Message, frozen=True):
    token: int  # eos or one of stop_token_ids; it is the last of the output tokens


class StoppedByString(Message, frozen=True):
    text: bytes  # the stop string found; the output tokens include it


class StoppedByLength(Message, frozen=True):
    length: int


class StoppedByConstraint(Message, frozen=True):
    """The text is complete: the request's constraint allows nothing after it."""


class Aborted(Message, frozen=True):
    reason: str
    overloaded: bool = False  # the same request may succeed later
    invalid: bool = False  # the request asks for what cannot be done


class Pooled(Message, frozen=True):
    """The answer of a model that generates no text: the end of its prompt's computation."""

    vector: F32  # [size] finite; an embedding of length 1, or scores of classes


Finish: TypeAlias = (
    StoppedByToken | StoppedByString | StoppedByLength | StoppedByConstraint | Aborted | Pooled
)


class Logprobs(Value, frozen=True):
    """Log-probabilities (natural) of consecutive tokens."""

    tokens: list[int]
    values: list[float | None]  # None: the first token of a prompt has no probability
    top: list[list[tuple[int, float]]]  # per token, most likely first; [] when none were asked for


class Delta(Value, frozen=True):
    """What was added to one request since its sender was told last."""

    rid: str
    tokens: list[int]  # new output tokens
    finish: Finish | None = None
    cached: int = 0  # prompt tokens whose keys and values were found in the prefix cache
    input_logprobs: Logprobs | None = None  # once, with the first delta that carries a token or a finish
    output_logprobs: Logprobs | None = None  # of `tokens`
    forced: int = 0  # of `tokens`: not sampled, since the constraint left no choice


class Load(Value, frozen=True):
    """What the replica is doing, after a step."""

    running: int = 0
    waiting: int = 0
    slots: int = 0  # of the whole KV pool
    slots_used: int = 0  # held by running requests
    slots_cached: int = 0  # held by the prefix cache alone: evictable
    prompt_tokens: int = 0  # counters since the start
    cached_tokens: int = 0
    generated_tokens: int = 0
    retractions: int = 0
    steps: int = 0
    forced_tokens: int = 0  # of the generated ones
    grammars_compiled: int = 0
    grammars_failed: int = 0
    grammar_hits: int = 0  # constrained requests whose grammar was there, or being compiled
    grammar_seconds: float = 0.0  # spent compiling


class Step(Message, frozen=True):
    deltas: list[Delta]
    load: Load
    replica: int = 0  # which one speaks
    waits: dict[str, float] = {}  # seconds in the line, of the requests first admitted since the last Step


class Flushed(Message, frozen=True):
    rid: str
    done: bool  # False: requests were running or waiting, nothing was flushed


class Profiled(Message, frozen=True):
    """The answer to `Profile`. On beginning all but `rid` is empty."""

    rid: str
    trace: str = ""  # the file
    table: str = ""  # for a person
    error: str = ""  # why nothing was written or begun
    conflict: bool = False  # it is because a recording is under way, or none is


FromReplica: TypeAlias = Step | Flushed | Profiled

# ------------------------------------------------------------------------------------------------- batches


class Prefix(Value, frozen=True):
    """The page table of a row from its start: sent when a request enters its row."""

    row: int
    slots: I32  # [cached] slots of the tokens that are already computed


class History(Value, frozen=True):
    """The tokens that penalties count, for a row that has a penalty; sent when a request enters its row.

    From then on the runner counts what it samples itself, so that a step need not wait for the last token.
    """

    row: int
    prompt: I32
    output: I32


class SamplingArrays(Value, frozen=True):
    """Sampling parameters of the m rows that get a token, one array each."""

    temperature: F32  # [m] 0: greedy
    top_p: F32  # [m]
    top_k: I32  # [m] -1: all
    min_p: F32  # [m]
    frequency_penalty: F32  # [m]
    presence_penalty: F32  # [m]
    repetition_penalty: F32  # [m]
    seeds: I64  # [m]
    steps: I32  # [m] how many tokens this request has sampled before; with the seed, the noise's counter
    histories: tuple[History, ...] = ()
    # Sparse additions to the logits: logit_bias, and -inf on eos and stop tokens under min_new_tokens.
    bias_rows: I32 = msgspec.field(default_factory=lambda: np.empty(0, np.int32))  # [b] index into the m
    bias_tokens: I32 = msgspec.field(default_factory=lambda: np.empty(0, np.int32))  # [b]
    bias_values: F32 = msgspec.field(default_factory=lambda: np.empty(0, np.float32))  # [b]


class LogprobArrays(Value, frozen=True):
    """Which log-probabilities this pass must report."""

    top: I32  # [m] -1: none for this sampled row; 0: of the sampled token; n: and of the n most likely
    input_index: I32  # [p] indices into the Σq computed tokens, ascending, one several times if need be
    input_targets: I32  # [p] the token that follows each
    input_top: I32  # [p]


class SharedRun(Value, frozen=True):
    """Requests first … first + rows - 1 of a batch begin with the same `tokens` slots, cached before it."""

    first: int
    rows: int
    tokens: int


class Batch(Message, frozen=True):
    """One forward pass; every rank receives the same one.

    The n requests lie one after another in `tokens`. A pass in which all q_lens are 1 is decode-shaped.
    """

    rows: I32  # [n] page-table row of each request
    q_lens: I32  # [n] tokens computed in this pass
    kv_lens: I32  # [n] tokens visible after it; the pass computes positions [kv_len - q_len, kv_len)
    tokens: I32  # [Σq] input ids; -1: the token that the step before sampled for this row
    slots: I32  # [Σq] where their keys and values go
    prefixes: tuple[Prefix, ...]  # rows whose request is new to them
    sampled: I32  # [m] indices into the n of those that get a next token
    sampling: SamplingArrays
    logprobs: LogprobArrays | None = None
    shared: tuple[SharedRun, ...] = ()  # disjoint, ascending: attention may read them once for all


class Halt(Message, frozen=True):
    """The last message to a follower."""


ToFollower: TypeAlias = Batch | Halt


class Masks(msgspec.Struct, frozen=True, gc=False):
    """Which tokens some of the rows that get one may take. Made after its batch, which it completes; it never
    leaves the process.

    Rows that may take the same tokens often share one array: it is read-only and named by its identity.
    """

    rows: I32  # [c] indices into the m of `Batch.sampled`, ascending
    bits: list[I32]  # [c] of [ceil(vocab_size / 32)]: bit i of word w for token 32 w + i


class Result(msgspec.Struct, frozen=True, gc=False):
    """What a pass produced; it never leaves the process."""

    tokens: I32  # [m]
    # Per sampled row None, or (log-probability of the token, [(token, log-probability), …] most likely first)
    output_logprobs: list[tuple[float, list[tuple[int, float]]] | None] | None = None
    # Per entry of LogprobArrays.input_index
    input_logprobs: list[tuple[float, list[tuple[int, float]]]] | None = None
    # [m, size]: the answers of a model that generates no text; its tokens mean nothing
    pooled: F32 | None = None


# ------------------------------------------------------------------------------------------------- start-up


class Capacity(Value, frozen=True):
    """What a replica can hold and answer; requests are checked against it before anything is sent."""

    slots: int  # KV slots: tokens over all requests
    rows: int  # requests running at once
    context_length: int  # tokens of one request, prompt and output together
    vocab_size: int
    answers: Answers = "text"  # if vectors, every request gets that of its last token, and no token


class Ready(Message, frozen=True):
    capacity: Capacity | None = None  # of a replica's leader
    seconds: dict[str, float] = {}  # start-up phases, for the breakdown in the log


class Failed(Message, frozen=True):
    traceback: str
    message: str = ""  # one line for the user when it is a ConfigError, else ""


FromChild: TypeAlias = Ready | Failed


class Open(Message, frozen=True):
    """Every replica is ready: the api process may answer requests."""

    capacities: list[Capacity]  # one per replica


class Died(Message, frozen=True):
    """A process of the server has ended: the api process fails what it has begun, and ends."""

    reason: str


ToApi: TypeAlias = Open | Died

# ------------------------------------------------------------------------------------------------- encoding

# How arrays travel: raw little-endian bytes, one dtype for each annotation.
_DTYPES: Final[dict[Any, np.dtype[Any]]] = {I32: np.dtype("<i4"), I64: np.dtype("<i8"), F32: np.dtype("<f4")}


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype in _DTYPES.values() and value.ndim == 1:
        return np.ascontiguousarray(value).data.cast("B")
    raise TypeError(f"{type(value).__name__} does not travel between processes")


def _decode_array(annotation: Any, data: Any) -> Any:
    dtype = _DTYPES.get(annotation)
    if dtype is None:
        raise TypeError(f"{annotation} does not travel between processes")
    return np.frombuffer(data, dtype)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encode_array)


def encode(message: Message) -> bytes:
    """One message as msgpack bytes."""
    return _ENCODER.encode(message)


def decoder(union: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder for one of the unions of this module: `decoder(ToReplica).decode(data)`.

    Raises msgspec.ValidationError, with a path, on bytes of another shape.
    """
    return msgspec.msgpack.Decoder(union, dec_hook=_decode_array)
