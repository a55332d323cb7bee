# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding: a table of angles, the rotation, and what stands around it in a layer.

Su et al., "RoFormer", 2021. Knows nothing of how frequencies were chosen, nor whose slots it writes to.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import FLOATS, INTEGERS, check, require
from sgl_kernels.kv import check_store, store_kv
from sgl_kernels.norm import gemma_rms_norm, rms_norm

_HEADS = (None, None, None)


def rope_table(
    inv_freq: Tensor,
    attention_factor: float,
    length: int,
    *,
    dtype: torch.dtype = torch.float32,
    interleaved: bool = False,
) -> tuple[Tensor, Tensor]:
    """(cos, sin), each [length, rotary_dim], as `apply_rope` reads them. Made once for a model.

    inv_freq [rotary_dim/2] and attention_factor: as `rope_frequencies` gives them. sin carries the sign of
    the rotation: in the neox layout row p is [-sin, sin] of the same rotary_dim/2 angles, in the interleaved
    one the two alternate. Both are multiplied by `attention_factor`, and rounded to `dtype` at the end.
    """
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=inv_freq.device), inv_freq.float())
    cos, sin = angles.cos() * attention_factor, angles.sin() * attention_factor
    if interleaved:
        cos, sin = torch.stack((cos, cos), -1).flatten(1), torch.stack((-sin, sin), -1).flatten(1)
    else:
        cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    return cos.to(dtype), sin.to(dtype)


def apply_rope(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    positions: Tensor | None = None,
    interleaved: bool = False,
) -> None:
    """Rotate q and k in place; in one go if the heads of k lie directly behind those of q in one buffer.

    q [T, hq, d], k [T, hk, d] float32, float16 or bfloat16, of one dtype; may be strided views whose last
    dimension is contiguous. cos, sin: as `rope_table` lays them out, contiguous, in float32 or the dtype of
    q. Either whole, [length, rotary_dim], with positions [T] int32 or int64, or without positions their rows
    for these tokens, [T, rotary_dim]. The first rotary_dim of the d dimensions rotate, the rest stay. A token
    at a negative position (padding) is not rotated.

    neox (the default): dimension i turns with i + rotary_dim/2; interleaved: 2i turns with 2i + 1.

    Raises ValueError on other shapes, dtypes, strides and devices. A position beyond the table is an
    IndexError on a CPU; on a GPU that token is not rotated.
    """
    _check_heads("q", q, cos, sin, positions)
    check("k", k, (len(q), None, q.shape[2]), like=q, rows=True)
    if kernels := fast("rope", q.device):
        kernels.apply_rope(q, k, cos, sin, positions=positions, interleaved=interleaved)
        return
    cos, sin = _rows(cos, sin, positions)
    if not torch.compiler.is_compiling() and _directly_behind(q, k):
        both = q.as_strided((q.shape[0], q.shape[1] + k.shape[1], q.shape[2]), q.stride())
        _turn(both, cos, sin, interleaved)
    else:
        _turn(q, cos, sin, interleaved)
        _turn(k, cos, sin, interleaved)


def rotate(
    x: Tensor, cos: Tensor, sin: Tensor, *, positions: Tensor | None = None, interleaved: bool = False
) -> None:
    """Rotate x [T, h, d] in place; all as in `apply_rope`."""
    _check_heads("x", x, cos, sin, positions)
    if kernels := fast("rope", x.device):
        kernels.rotate(x, cos, sin, positions=positions, interleaved=interleaved)
        return
    _turn(x, *_rows(cos, sin, positions), interleaved)


def rope_and_store_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    slots: Tensor,
    *,
    positions: Tensor | None = None,
    interleaved: bool = False,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    eps: float = 1e-6,
    gemma: bool = False,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """What stands between the projection and the attention of a layer, in one pass over the memory.

    The heads of q and k are normalised with q_weight and k_weight [d] (`rms_norm`, or with `gemma`
    `gemma_rms_norm`; left out where they are None), then rotated as by `apply_rope`. q is changed in place;
    the keys and v go into their slots as by `store_kv`. v is not changed; what k holds afterwards is not
    said: a reader of rotated keys finds them in the caches. Arguments, and what is raised, are as there; the
    weights are contiguous and of q's dtype.

    The reference rounds to q's dtype after each of the steps, the kernel once, at the end.
    """
    _check_heads("q", q, cos, sin, positions)
    check("k", k, (len(q), None, q.shape[2]), like=q, rows=True)
    check_store(k, v, k_cache, v_cache, slots, k_scale, v_scale)
    require(
        (q_weight is None) == (k_weight is None), "k_weight", "must be given if q_weight is, and only then"
    )
    require(q_weight is not None or not gemma, "gemma", "is about the weights of norms, and there are none")
    if q_weight is not None and k_weight is not None:
        check("q_weight", q_weight, [q.shape[2]], like=q, contiguous=True)
        check("k_weight", k_weight, [q.shape[2]], like=q, contiguous=True)
    if kernels := fast("rope", q.device):
        kernels.rope_and_store_kv(
            q, k, v, cos, sin, k_cache, v_cache, slots, positions=positions, interleaved=interleaved,
            q_weight=q_weight, k_weight=k_weight, eps=eps, gemma=gemma, k_scale=k_scale, v_scale=v_scale,
        )  # fmt: skip
        return
    if q_weight is not None and k_weight is not None:
        norm = gemma_rms_norm if gemma else rms_norm
        q.copy_(norm(q, q_weight, eps))
        k.copy_(norm(k, k_weight, eps))
    apply_rope(q, k, cos, sin, positions=positions, interleaved=interleaved)
    store_kv(k, v, k_cache, v_cache, slots, k_scale=k_scale, v_scale=v_scale)


def _check_heads(argument: str, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor | None) -> None:
    check(argument, x, _HEADS, dtypes=FLOATS, rows=True)
    length = len(x) if positions is None else None
    check("cos", cos, (length, None), like=x, dtypes=(torch.float32, x.dtype), contiguous=True)
    check("sin", sin, cos.shape, like=cos, contiguous=True)
    if cos.shape[1] % 2 or cos.shape[1] > x.shape[2]:
        widths = f"{x.shape[2]}, not {cos.shape[1]}"
        raise ValueError(f"cos: its width must be even and at most that of a head, {widths}")
    if positions is not None:
        check("positions", positions, [len(x)], like=x, dtypes=INTEGERS)


def _rows(cos: Tensor, sin: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
    """The angles of each token."""
    if positions is None:
        return cos, sin
    nowhere = (positions < 0)[:, None]
    positions = positions.clamp(min=0)
    return (
        cos.index_select(0, positions).masked_fill_(nowhere, 1),
        sin.index_select(0, positions).masked_fill_(nowhere, 0),
    )


def _turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> None:
    rotary_dim = cos.shape[-1]
    if rotary_dim < x.shape[-1]:
        x = x[..., :rotary_dim]
    if interleaved:
        partner = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    else:
        partner = x.roll(rotary_dim // 2, -1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    if cos.dtype == x.dtype:
        x.mul_(cos).addcmul_(partner, sin)
    else:
        x.copy_((x * cos).addcmul_(partner, sin))  # in the dtype of cos and sin, rounded once


def _directly_behind(q: Tensor, k: Tensor) -> bool:
    """Whether head 0 of k is where one more head of q would be, for every token."""
    behind = q.shape[1] * q.stride(1)
    return (
        k.storage_offset() - q.storage_offset() == behind
        and k.data_ptr() - q.data_ptr() == behind * q.element_size()  # and so their storage is the same
        and k.stride()[1:] == q.stride()[1:]
        and (k.stride(0) == q.stride(0) or q.shape[0] == 1)
        and k.shape[2] == q.shape[2]
    )
