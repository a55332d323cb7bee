# SPDX-License-Identifier: Apache-2.0
"""Every message survives the wire, and bytes of another shape do not."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from sgl_runtime import messages as m


def i32(*values: int) -> m.I32:
    return np.array(values, np.int32)


def f32(*values: float) -> m.F32:
    return np.array(values, np.float32)


SAMPLING = m.Sampling(stop=("停".encode(), b"\n"), stop_token_ids=(3,), logit_bias=((5, -1.5),), seed=2**62)
LOGPROBS = m.Logprobs([1, 2], [None, -0.25], [[], [(2, -0.25), (9, -3.0)]])
BATCH = m.Batch(
    rows=i32(4, 0),
    q_lens=i32(3, 1),
    kv_lens=i32(5, 9),
    tokens=i32(7, 8, 9, -1),
    slots=i32(1, 2, 3, 40),
    prefixes=(m.Prefix(4, i32(11, 12)),),
    sampled=i32(1),
    sampling=m.SamplingArrays(
        temperature=f32(0.5),
        top_p=f32(1),
        top_k=i32(-1),
        min_p=f32(0),
        frequency_penalty=f32(0),
        presence_penalty=f32(0),
        repetition_penalty=f32(1.1),
        seeds=np.array([2**62], np.int64),
        steps=i32(6),
        histories=(m.History(0, i32(1, 2), i32(3)),),
        bias_rows=i32(0),
        bias_tokens=i32(2),
        bias_values=f32(-np.inf),
    ),
    logprobs=m.LogprobArrays(i32(2), i32(0, 1), i32(8, 9), i32(0, 0)),
)
UNIONS: dict[Any, list[m.Message]] = {
    m.ToReplica: [
        m.Generate("r", [1, 2], SAMPLING, m.LogprobSpec(0, 3, (7, 8))),
        m.Generate("r", [1], m.Sampling()),
        m.Generate("r", [1], m.Sampling(constraint=m.Constraint("json_schema", '{"const":"停"}'))),
        m.Abort("r"),
        m.Flush("r"),
        m.Profile("r"),
        m.Profile("r", "a folder"),
    ],
    m.FromReplica: [
        m.Step([m.Delta("r", [5], m.StoppedByString(b"\xe5"), 3, LOGPROBS, LOGPROBS)], m.Load(running=1)),
        m.Step([m.Delta("r", [], m.Aborted("no room", overloaded=True))], m.Load()),
        m.Step([m.Delta("r", [4, 5], m.StoppedByConstraint(), forced=1)], m.Load(forced_tokens=1)),
        m.Step([m.Delta("r", [], m.Aborted("no grammar", invalid=True))], m.Load()),
        m.Step([m.Delta("r", [2], m.StoppedByToken(2)), m.Delta("s", [1], m.StoppedByLength(4))], m.Load()),
        m.Step([m.Delta("r", [], m.Pooled(f32(0.5, -2)), cached=2)], m.Load()),
        m.Flushed("r", True),
        m.Profiled("r", "a/trace.json", "a table"),
        m.Profiled("r", error="no profile is being recorded", conflict=True),
    ],
    m.ToFollower: [BATCH, m.Halt()],
    m.FromChild: [
        m.Ready(m.Capacity(10, 2, 8, 100), {"torch": 1.5}),
        m.Ready(),
        m.Failed("Traceback", "why"),
    ],
    m.ToApi: [m.Open([m.Capacity(10, 2, 8, 100)]), m.Died("replica0 was killed by SIGKILL")],
}
CASES = [(union, message) for union, members in UNIONS.items() for message in members]


def plain(value: Any) -> Any:
    """The same value with arrays as (dtype, list), so that == compares it."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.tolist()
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, [plain(getattr(value, name)) for name in value.__struct_fields__]
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


@pytest.mark.parametrize(("union", "message"), CASES, ids=lambda case: type(case).__name__)
def test_round_trip(union: Any, message: m.Message) -> None:
    assert plain(m.decoder(union).decode(m.encode(message))) == plain(message)


def test_every_member_of_every_union_is_covered() -> None:
    for union, members in UNIONS.items():
        assert {type(member) for member in members} == set(union.__args__)


def test_another_shape_is_refused_with_a_path() -> None:
    data = msgspec.msgpack.encode(["Generate", "r", [1, "two"], []])
    with pytest.raises(msgspec.ValidationError, match=r"Expected `int`, got `str` - at `\$\[2\]\[1\]`"):
        m.decoder(m.ToReplica).decode(data)


@pytest.mark.parametrize("array", [np.zeros(2, np.float64), np.zeros((2, 2), np.int32)])
def test_only_the_declared_arrays_travel(array: Any) -> None:
    with pytest.raises(TypeError, match="does not travel"):
        m.encode(m.Prefix(0, array))


def test_decoded_arrays_are_views_of_the_message() -> None:
    decoded = m.decoder(m.ToFollower).decode(m.encode(BATCH))
    assert not decoded.tokens.flags.owndata
