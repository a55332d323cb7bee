# SPDX-License-Identifier: Apache-2.0
"""`SamplingParams`: how a generation is sampled, and `merge`, which lays one set over another.

`None` means "not said here": first `run()` decides, then the server. Values are judged by the server, which
knows their limits; this file knows their names, those of the server's API, and what cannot be sent at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from sgl_lang.errors import ProgramError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one generation; every field may be None. ProgramError for NaN and infinity."""

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ProgramError(f"{field.name} must be a finite number, not {value}")


def merge(defaults: SamplingParams, overrides: SamplingParams) -> SamplingParams:
    """`defaults`, with every field that `overrides` sets."""
    chosen = {field.name: getattr(overrides, field.name) for field in fields(overrides)}
    return replace(defaults, **{name: value for name, value in chosen.items() if value is not None})


def stop_strings(stop: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """One stop string or several, as a tuple. Raises ProgramError for what is neither."""
    if stop is None:
        return None
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, Iterable):
        raise ProgramError(f"stop must be a str or several, not {type(stop).__name__}")
    return tuple(stop)
