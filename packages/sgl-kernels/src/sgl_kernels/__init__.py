# SPDX-License-Identifier: Apache-2.0
"""Operations of a transformer decoder on torch tensors. What `__all__` names is public."""

from sgl_kernels.activation import gelu_and_mul, silu_and_mul
from sgl_kernels.attention import AttentionBackend, AttentionSpec, PagedLayout, Plan, load_attention
from sgl_kernels.kv import store_kv
from sgl_kernels.linear import PackedWeight
from sgl_kernels.logprobs import TokenLogprobs, logprobs_of_hidden, logprobs_of_logits
from sgl_kernels.norm import fused_add_rms_norm, rms_norm
from sgl_kernels.penalty import apply_penalties
from sgl_kernels.rope import apply_rope, rope_frequencies, rope_table, rotate
from sgl_kernels.sampling import sample

__all__ = [
    "AttentionBackend",
    "AttentionSpec",
    "PackedWeight",
    "PagedLayout",
    "Plan",
    "TokenLogprobs",
    "apply_penalties",
    "apply_rope",
    "fused_add_rms_norm",
    "gelu_and_mul",
    "load_attention",
    "logprobs_of_hidden",
    "logprobs_of_logits",
    "rms_norm",
    "rope_frequencies",
    "rope_table",
    "rotate",
    "sample",
    "silu_and_mul",
    "store_kv",
]
