# SPDX-License-Identifier: Apache-2.0
"""Operations of a transformer decoder on torch tensors. What `__all__` names is public."""

from sgl_kernels._backend import Availability, available
from sgl_kernels.activation import gelu_and_mul, silu_and_mul
from sgl_kernels.attention import (
    AttentionBackend,
    AttentionSpec,
    PagedLayout,
    Plan,
    SharedPrefix,
    load_attention,
)
from sgl_kernels.bitmask import apply_token_bitmask
from sgl_kernels.kv import copy_kv, gather_kv, gather_slots, store_kv
from sgl_kernels.linear import PackedWeight, linear
from sgl_kernels.logprobs import TokenLogprobs, logprobs_of_hidden, logprobs_of_logits
from sgl_kernels.merge import merge_states
from sgl_kernels.moe import fused_experts, route, with_shared_experts
from sgl_kernels.norm import (
    fused_add_gemma_rms_norm,
    fused_add_rms_norm,
    gemma_rms_norm,
    layer_norm,
    rms_norm,
)
from sgl_kernels.penalty import apply_penalties, count_tokens
from sgl_kernels.rope import apply_rope, rope_and_store_kv, rope_table, rotate
from sgl_kernels.rope_scaling import rope_frequencies
from sgl_kernels.sampling import SamplingParameters, sample

__all__ = [
    "Availability",
    "AttentionBackend",
    "AttentionSpec",
    "PackedWeight",
    "PagedLayout",
    "Plan",
    "SamplingParameters",
    "TokenLogprobs",
    "SharedPrefix",
    "apply_penalties",
    "apply_rope",
    "apply_token_bitmask",
    "available",
    "copy_kv",
    "count_tokens",
    "fused_add_gemma_rms_norm",
    "fused_add_rms_norm",
    "fused_experts",
    "gather_kv",
    "gather_slots",
    "gelu_and_mul",
    "gemma_rms_norm",
    "layer_norm",
    "linear",
    "load_attention",
    "logprobs_of_hidden",
    "logprobs_of_logits",
    "merge_states",
    "rms_norm",
    "rope_and_store_kv",
    "rope_frequencies",
    "rope_table",
    "rotate",
    "route",
    "sample",
    "silu_and_mul",
    "store_kv",
    "with_shared_experts",
]
