# SPDX-License-Identifier: Apache-2.0
"""Products of up to 32 rows with a weight, bound by reading the weight once.

Two ways. By lanes: each thread multiplies eight neighbouring elements of a few rows of the weight with those
of every input, and sums in registers; for one or two rows. By tensor cores: the weight is the left operand,
the inputs, padded to 16 or 32, are the right one, and the loads of the next tiles are in flight meanwhile.
Each output is summed by one program in one order that depends on the kernel alone.

With `overlap` a program fetches its first weights before it waits for the end of the kernel ahead (see
overlap.py), which may have computed its inputs, but not its weights.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sgl_kernels._triton.overlap import overlapping
from sgl_kernels._triton.sizes import cdiv, next_power_of_2


class Tile(NamedTuple):
    """What a program does: `outputs` rows of the weight, `inputs` elements of them at a time.

    ahead: with `overlap`, how many times `inputs` elements are fetched into the L2 cache before the wait.
    """

    lanes: bool
    outputs: int
    inputs: int
    warps: int
    stages: int
    ahead: int


_LINE = tl.constexpr(64)  # elements of a cache line
_NEEDED = 164_000  # bytes of shared memory, for the largest of the tiles with tensor cores


@triton.jit
def fetch(w_ptr, outputs, begin, n, k, w_stride, AHEAD: tl.constexpr, K: tl.constexpr):
    """Asks for elements begin to AHEAD * K of these rows in the L2 cache."""
    rows = w_ptr + tl.minimum(outputs, n - 1).to(tl.int64)[:, None] * w_stride
    lines = tl.arange(0, K // _LINE)[None, :] * _LINE
    for start in range(begin, tl.minimum(k, AHEAD * K), K):
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;",
            "=r,l",
            [(rows + tl.minimum(start + lines, k - 1)).to(tl.int64, bitcast=True)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit(do_not_specialize=["m"])
def _by_lanes(
    x_ptr, w_ptr, b_ptr, y_ptr, m, n, k, x_stride, w_stride,
    HAS_BIAS: tl.constexpr, EVEN: tl.constexpr, OVERLAP: tl.constexpr, AHEAD: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    rows = tl.arange(0, M)[:, None, None]
    outputs = tl.program_id(0) * N + tl.arange(0, N)
    inputs = tl.arange(0, K)[None, None, :]
    valid = (outputs < n)[None, :, None]
    w = w_ptr + outputs.to(tl.int64)[None, :, None] * w_stride + inputs
    x = x_ptr + rows.to(tl.int64) * x_stride + inputs
    total = tl.zeros((M, N, K // 8), tl.float32)
    following = tl.load(w, valid if EVEN else valid & (inputs < k), other=0.0, eviction_policy="evict_first")
    if OVERLAP:
        # The weight is nobody's output; the input may be that of the kernel before this one.
        gdc_launch_dependents()
        fetch(w_ptr, outputs, K, n, k, w_stride, AHEAD, K)
        gdc_wait()
    for start in range(0, k, K):
        part = following
        left = k - start - K
        inside = valid & (left > 0) if EVEN else valid & (inputs < left)
        following = tl.load(w + start + K, inside, other=0.0, eviction_policy="evict_first")
        some = tl.load(x + start, rows < m if EVEN else (rows < m) & (start + inputs < k), other=0.0)
        products = part.to(tl.float32) * some.to(tl.float32)
        total += tl.sum(tl.reshape(products, (M, N, K // 8, 8)), 3)
    y = tl.sum(total, 2)
    if HAS_BIAS:
        y += tl.load(b_ptr + outputs, outputs < n, other=0.0).to(tl.float32)[None, :]
    place = tl.arange(0, M)[:, None].to(tl.int64) * n + outputs[None, :]
    tl.store(
        y_ptr + place, y.to(y_ptr.dtype.element_ty), (tl.arange(0, M) < m)[:, None] & (outputs < n)[None, :]
    )


@triton.jit(do_not_specialize=["m"])
def _by_tensor_cores(
    x_ptr, w_ptr, b_ptr, y_ptr, m, n, k, x_stride, w_stride,
    HAS_BIAS: tl.constexpr, EVEN: tl.constexpr, OVERLAP: tl.constexpr, AHEAD: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    outputs = tl.program_id(0) * N + tl.arange(0, N)
    rows = tl.arange(0, M)
    inputs = tl.arange(0, K)
    valid = outputs < n
    # An output beyond the last reads the last one's weights again, so that whole tiles can be copied.
    w = w_ptr + tl.minimum(outputs, n - 1).to(tl.int64)[:, None] * w_stride + inputs[None, :]
    x = x_ptr + tl.minimum(rows, m - 1).to(tl.int64)[None, :] * x_stride + inputs[:, None]
    total = tl.zeros((N, M), tl.float32)
    if OVERLAP:
        gdc_launch_dependents()
        fetch(w_ptr, outputs, 0, n, k, w_stride, AHEAD, K)
        gdc_wait()
    for start in range(0, k, K):
        if EVEN:
            total = tl.dot(tl.load(w + start), tl.load(x + start), total)
        else:
            inside = start + inputs < k
            left = tl.load(w + start, inside[None, :], other=0.0)
            total = tl.dot(left, tl.load(x + start, inside[:, None], other=0.0), total)
    if HAS_BIAS:
        total += tl.load(b_ptr + outputs, valid, other=0.0).to(tl.float32)[:, None]
    place = rows.to(tl.int64)[None, :] * n + outputs[:, None]
    tl.store(y_ptr + place, total.to(y_ptr.dtype.element_ty), valid[:, None] & (rows < m)[None, :])


def small_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, overlap: bool, tile: Tile | None = None
) -> Tensor | None:
    """x [m, K], weight [N, K], bias [N] or None -> [m, N]; m up to 32, rows contiguous.

    None where the library's product was measured to be as fast. overlap: nothing that may still run writes
    the weight or the bias.
    """
    m, k = x.shape
    n = weight.shape[0]
    tile = tile or tile_for(m, n, k)
    if tile is None or (not tile.lanes and _shared_memory(x.device) < _NEEDED):
        return None
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    launch = overlapping(x.device) if overlap else {"OVERLAP": False}
    kernel, rows = (_by_lanes, 1) if tile.lanes else (_by_tensor_cores, 16)
    rows = max(rows, next_power_of_2(m))
    kernel[(cdiv(n, tile.outputs),)](
        x, weight, bias, y, m, n, k, x.stride(0), weight.stride(0), HAS_BIAS=bias is not None,
        EVEN=k % tile.inputs == 0, AHEAD=tile.ahead, M=rows, N=tile.outputs, K=tile.inputs,
        num_warps=tile.warps, num_stages=tile.stages, **launch,
    )  # fmt: skip
    return y


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a program can have."""
    if device.type != "cuda":
        return _NEEDED
    return int(triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"])


def tile_for(m: int, n: int, k: int) -> Tile | None:
    """The tile measured to be fastest for products of this size; None: no faster than the library."""
    if m <= 2 and (k > 8192 or k < 1024 or (m == 1 and k % 4096)):
        return Tile(True, 4, 1024 if k >= 1024 else 512, 4, 1, ahead=2)
    if m == 1:
        return Tile(True, 1, 4096, 4, 1, ahead=1)
    if m == 2:
        return Tile(True, 2, 1024, 2, 1, ahead=1)
    if m > 16:
        if n >= 16384:
            return Tile(False, 128, 128, 4, 4, ahead=0)
        return Tile(False, 32, 256, 2, 5, ahead=2) if n <= 5120 and k <= 8192 else None
    if n >= 65536:
        return Tile(False, 128, 128, 4, 4, ahead=0)
    if n <= 5120 or (k > 8192 and m > 4):
        return Tile(False, 32, 512, 2, 4, ahead=2)
    return None
