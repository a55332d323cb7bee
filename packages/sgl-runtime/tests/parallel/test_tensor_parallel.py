# SPDX-License-Identifier: Apache-2.0
"""Two processes over gloo agree with arithmetic; one process alone changes nothing."""

from __future__ import annotations

import pytest
import torch
from pair import Pair

from sgl_runtime.parallel.rendezvous import join
from sgl_runtime.parallel.tensor import TensorParallel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_reduce_sums_in_place(pair: Pair, dtype: torch.dtype) -> None:
    x = torch.arange(6, dtype=dtype).view(2, 3)
    pair.tell("all_reduce", torch.full((2, 3), 10, dtype=dtype))
    assert pair.tp.all_reduce(x) is x
    assert torch.equal(x, torch.arange(10, 16, dtype=dtype).view(2, 3))


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1), (1, 3)])
def test_all_gather_joins_uneven_pieces_of_the_last_dimension(pair: Pair, sizes: tuple[int, int]) -> None:
    whole = torch.randn(5, sum(sizes)).to(torch.bfloat16)
    mine, theirs = whole.split(sizes, dim=-1)
    pair.tell("all_gather", theirs.clone(), sizes)
    assert torch.equal(pair.tp.all_gather(mine, sizes), whole)


def test_broadcast_sends_rank_0_s_values(pair: Pair) -> None:
    mine, theirs = torch.tensor([1, 2], dtype=torch.int32), torch.tensor([8, 9], dtype=torch.int32)
    pair.tell("broadcast and all_reduce", theirs)
    assert pair.tp.broadcast(mine).tolist() == [1, 2]
    assert pair.tp.all_reduce(mine).tolist() == [2, 4]


def test_alone_nothing_happens() -> None:
    tp = TensorParallel.alone()
    x = torch.randn(3)
    assert tp.leads and tp.size == 1
    assert tp.all_reduce(x) is x and tp.all_gather(x, [3]) is x and tp.broadcast(x) is x
    tp.close()
    assert join("tcp://not-used:1", 0, 1, torch.device("cpu")) == tp
