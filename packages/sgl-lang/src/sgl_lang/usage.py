# SPDX-License-Identifier: Apache-2.0
"""`Usage`: tokens that a program has cost, as its backend counts them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Usage(NamedTuple):
    """Tokens of prompts, those of them that a cache held, and generated tokens."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def plus(self, meta_info: Mapping[str, Any]) -> Usage:
        """With those of one more answer; what it does not report counts as none."""
        told = meta_info.get
        return Usage(
            self.prompt_tokens + (told("prompt_tokens") or 0),
            self.cached_tokens + (told("cached_tokens") or 0),
            self.completion_tokens + (told("completion_tokens") or 0),
        )
