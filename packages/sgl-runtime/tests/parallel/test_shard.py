# SPDX-License-Identifier: Apache-2.0
"""Every index belongs to exactly one rank, heads stay with their KV group, and a parameter knows what it
lacks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_runtime.checkpoint.division import Span, head_sizes, share, share_heads
from sgl_runtime.errors import ConfigError
from sgl_runtime.parallel.shard import Misfit, Part, Shard

CPU = torch.device("cpu")


@settings(deadline=None)
@given(total=st.integers(1, 300), size=st.integers(1, 40))
def test_shares_cover_everything_once_and_are_balanced(total: int, size: int) -> None:
    if total < size:
        with pytest.raises(ConfigError, match="too large"):
            share(total, 0, size)
        return
    spans = [share(total, rank, size) for rank in range(size)]
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(total))
    lengths = [span.length for span in spans]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@settings(deadline=None)
@given(kv_heads=st.integers(1, 12), group=st.integers(1, 12), data=st.data())
def test_every_query_head_is_on_one_rank_with_its_kv_head(
    kv_heads: int, group: int, data: st.DataObject
) -> None:
    heads = kv_heads * group
    size = data.draw(st.sampled_from(head_sizes(heads, kv_heads)))
    shares = [share_heads(heads, kv_heads, rank, size) for rank in range(size)]
    assert [i for each in shares for i in range(each.q.start, each.q.stop)] == list(range(heads))
    for each in shares:
        # On its rank, query head i attends to KV head i // (local group): the same as in the whole model.
        local_group, rest = divmod(each.q.length, each.kv.length)
        assert rest == 0
        for i in range(each.q.length):
            assert each.kv.start + i // local_group == (each.q.start + i) // group


def test_nine_heads_over_three_kv_heads() -> None:
    assert head_sizes(9, 3) == [1, 2, 3, 9]
    assert [share_heads(9, 3, rank, 2).q.length for rank in range(2)] == [6, 3]
    assert [share_heads(9, 3, rank, 2).kv.length for rank in range(2)] == [2, 1]
    with pytest.raises(ConfigError, match=r"--tp 4 .* 1, 2, 3, 9$"):
        share_heads(9, 3, 0, 4)


def test_kv_heads_are_held_by_several_ranks_when_there_are_more_ranks() -> None:
    shares = [share_heads(8, 2, rank, 4) for rank in range(4)]
    assert [each.kv.start for each in shares] == [0, 0, 1, 1]
    assert all(each.q.length == 2 and each.kv.length == 1 for each in shares)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    inputs=st.integers(1, 6),
    data=st.data(),
)
def test_a_shard_is_the_slices_stacked(sizes: list[int], inputs: int, data: st.DataObject) -> None:
    def span(total: int) -> Span:
        start = data.draw(st.integers(0, total - 1))
        return Span(start, data.draw(st.integers(start + 1, total)))

    columns = Part(inputs, span(inputs))
    rows = tuple(Part(size, span(size), name) for name, size in enumerate(sizes))
    shard = Shard((rows, (columns,)), torch.float32, CPU)
    tensors = [torch.randn(size, inputs) for size in sizes]
    names = [part.name for part in rows] if len(rows) > 1 else [None]
    assert list(shard.parts) == names
    for i in data.draw(st.permutations(range(len(names)))):
        assert shard.stored_shape(names[i]) == tuple(tensors[i].shape)
        shard.load(tensors[i], names[i])
    expected = [
        tensor[part.own.start : part.own.stop, columns.own.start : columns.own.stop]
        for part, tensor in zip(rows, tensors, strict=True)
    ]
    assert torch.equal(shard.data, torch.cat(expected))
    assert not shard.missing


def test_a_shard_notices_what_is_missing_twice_or_of_another_shape() -> None:
    shard = Shard(((Part.whole(2, "q"), Part.whole(3, "k")),), torch.float32, CPU)
    assert shard.missing == {"q", "k"}
    with pytest.raises(Misfit, match=r"stored as \[4\], expected \[3\]"):
        shard.load(torch.zeros(4), "k")
    shard.load(torch.zeros(2), "q")
    assert shard.missing == {"k"}
    with pytest.raises(Misfit, match="twice"):
        shard.load(torch.zeros(2), "q")


def test_loading_converts_the_dtype() -> None:
    shard = Shard(((Part.whole(3),),), torch.bfloat16, CPU)
    shard.load(torch.tensor([1.0, 1.001, -2.0], dtype=torch.float64))
    assert shard.dtype == torch.bfloat16
    assert shard.tolist() == [1.0, 1.0, -2.0]
    assert not shard.requires_grad
