# SPDX-License-Identifier: Apache-2.0
"""The CUDA stream on which a runner does everything; on the default one nothing can be captured."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def on_stream(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    """Launch what follows on `stream`; None: the device has none."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)
