# SPDX-License-Identifier: Apache-2.0
"""Paged attention: the protocol, and the choice of a backend. One module per backend beside this one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MappingProxyType

import torch

from sgl_kernels._backend import available
from sgl_kernels.attention.protocol import AttentionBackend, AttentionSpec, PagedLayout, Plan, SharedPrefix

# Modules beside this one, imported when they are first considered, and the names of their classes.
_BACKENDS: Mapping[str, str] = MappingProxyType(
    {"triton": "TritonAttention", "flashinfer": "FlashInferAttention", "reference": "ReferenceAttention"}
)
# The first that supports every spec of a model is chosen, of those that need no compiler at first use.
_PREFERRED = ("triton", "reference")


def load_attention(
    name: str | None, specs: Iterable[AttentionSpec], device: torch.device
) -> AttentionBackend:
    """The backend called `name`, or the preferred one that supports all `specs` if None.

    "triton" is for CUDA devices, and is what they get unless SGL_KERNELS_BACKEND says otherwise; "flashinfer"
    is for those too, but chosen by name only; "reference" is for any. Raises ValueError if there is no such
    backend, if it cannot be used here, or if it does not support a spec.
    """
    if name is not None and name not in _BACKENDS:
        raise ValueError(f"no attention backend is called {name!r}; there are: {', '.join(_BACKENDS)}")
    wanted = list(specs)
    refused = []
    for candidate in _PREFERRED if name is None else [name]:
        if reason := _obstacle(candidate, device):
            refused.append(f"{candidate} cannot be used: {reason}")
            continue
        module = import_module(f"{__name__}.{candidate}")
        backend: AttentionBackend = getattr(module, _BACKENDS[candidate])(device)
        missing = [spec for spec in wanted if not backend.supports(spec)]
        if not missing:
            return backend
        refused.append(f"{candidate} does not support {missing[0]}")
    raise ValueError("; ".join(refused))


def _obstacle(name: str, device: torch.device) -> str | None:
    """Why a backend cannot be used on a device, if so."""
    if name == "reference":
        return None
    if device.type != "cuda":
        return f"it needs a CUDA device, not {device.type}"
    found = available()[name]
    return None if found.usable else found.reason


__all__ = ["AttentionBackend", "AttentionSpec", "PagedLayout", "Plan", "SharedPrefix", "load_attention"]
