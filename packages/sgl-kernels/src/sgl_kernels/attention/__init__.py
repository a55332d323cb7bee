# SPDX-License-Identifier: Apache-2.0
"""Paged attention: the protocol, and the choice of a backend. One module per backend beside this one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import torch

from sgl_kernels.attention.protocol import AttentionBackend, AttentionSpec, PagedLayout, Plan
from sgl_kernels.attention.reference import ReferenceAttention

# In order of preference: the first that supports every spec of a model is chosen.
_BACKENDS: Mapping[str, Callable[[torch.device], AttentionBackend]] = MappingProxyType(
    {"reference": ReferenceAttention}
)


def load_attention(
    name: str | None, specs: Iterable[AttentionSpec], device: torch.device
) -> AttentionBackend:
    """The backend called `name`, or the preferred one that supports all `specs` if None.

    Raises ValueError if there is no such backend or it does not support a spec.
    """
    if name is not None and name not in _BACKENDS:
        raise ValueError(f"no attention backend is called {name!r}; there are: {', '.join(_BACKENDS)}")
    wanted = list(specs)
    refused = []
    for candidate in [name] if name is not None else _BACKENDS:
        backend = _BACKENDS[candidate](device)
        missing = [spec for spec in wanted if not backend.supports(spec)]
        if not missing:
            return backend
        refused.append(f"{candidate} does not support {missing[0]}")
    raise ValueError("; ".join(refused))


__all__ = ["AttentionBackend", "AttentionSpec", "PagedLayout", "Plan", "load_attention"]
