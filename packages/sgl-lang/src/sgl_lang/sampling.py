# SPDX-License-Identifier: Apache-2.0
"""`SamplingParams`: how a generation is sampled, and `merge`, which lays one set over another.

`None` means "not said here": first `run()` decides, then the server. Values are judged by the server, which
knows their limits; this file knows their names, those of the server's API, and what cannot be sent at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypedDict

from sgl_lang.errors import ProgramError

Dtype: TypeAlias = Literal["int", "float", "bool", "str"]


@dataclass(frozen=True, slots=True, repr=False)
class SamplingParams:
    """Sampling parameters of one generation; every field may be None. ProgramError for NaN and infinity.

    Of `dtype`, `regex`, `json_schema` (JSON text) and `ebnf`, which say what the text must look like, at most
    one is set: in `merge` the one that is laid over the others replaces them.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    n: int | None = None
    stop: tuple[str, ...] | None = None
    stop_token_ids: tuple[int, ...] | None = None
    stop_regex: tuple[str, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: Mapping[int, float] | None = None
    ignore_eos: bool | None = None
    seed: int | None = None
    dtype: Dtype | None = None
    regex: str | None = None
    json_schema: str | None = None
    ebnf: str | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool | None = None

    def __post_init__(self) -> None:
        for place, value in enumerate(_VALUES(self)):
            if value.__class__ is float and not math.isfinite(value):
                raise ProgramError(f"{PARAMETERS[place]} must be a finite number, not {value}")
        if _FORMS(self).count(None) < len(CONSTRAINTS) - 1:
            said = [name for name in CONSTRAINTS if getattr(self, name) is not None]
            raise ProgramError(f"{' and '.join(said)} cannot both say what the text must look like; drop one")

    def __repr__(self) -> str:
        return f"SamplingParams({', '.join(f'{name}={value!r}' for name, value in self.said().items())})"

    def said(self) -> dict[str, Any]:
        """The fields that are set, by name."""
        pairs = zip(PARAMETERS, _VALUES(self), strict=True)
        return {name: value for name, value in pairs if value is not None}

    def asked(self) -> dict[str, Any]:
        """The fields that change something: those that are set, less those set to what is so anyway."""
        return {name: value for name, value in self.said().items() if NEUTRAL.get(name, _UNLIKE) != value}


_UNLIKE = object()
PARAMETERS = tuple(field.name for field in fields(SamplingParams))
CONSTRAINTS = ("dtype", "regex", "json_schema", "ebnf")
_VALUES = attrgetter(*PARAMETERS)
_FORMS = attrgetter(*CONSTRAINTS)
_WRITES = tuple(getattr(SamplingParams, name).__set__ for name in PARAMETERS)
LOGPROBS = ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs")

# What every model does when nothing is said. Defaults of `temperature` and `max_new_tokens` differ.
NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {
        "min_new_tokens": 0,
        "n": 1,
        "stop": (),
        "stop_token_ids": (),
        "stop_regex": (),
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "logit_bias": {},
        "ignore_eos": False,
        "skip_special_tokens": True,
        "spaces_between_special_tokens": True,
        "include_stop_str_in_output": False,
        "return_logprob": False,
        "logprob_start_len": 0,
        "top_logprobs_num": 0,
        "return_text_in_logprobs": False,
    }
)


class Sampling(TypedDict, total=False):
    """Sampling parameters as users write them for a whole run; see `gen`."""

    max_new_tokens: int
    min_new_tokens: int | None
    n: int | None
    stop: str | Iterable[str]
    stop_token_ids: Iterable[int]
    stop_regex: str | Iterable[str]
    temperature: float
    top_p: float
    top_k: int
    min_p: float | None
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float | None
    logit_bias: Mapping[int, float] | None
    ignore_eos: bool
    seed: int | None
    skip_special_tokens: bool | None
    spaces_between_special_tokens: bool | None
    include_stop_str_in_output: bool | None
    return_logprob: bool | None
    logprob_start_len: int | None
    top_logprobs_num: int | None
    return_text_in_logprobs: bool | None


def defaults_of(given: Sampling) -> SamplingParams:
    """The parameters of a run: what was given, over what programs do when nobody says anything."""
    lists = {
        "stop": strings(given.get("stop", ())),
        "stop_token_ids": token_ids(given.get("stop_token_ids", ())),
        "logit_bias": biases(given.get("logit_bias")),
        "stop_regex": strings(given.get("stop_regex"), "stop_regex") or None,
    }
    said = {name: value for name, value in {**given, **lists}.items() if value is not None}
    return replace(_DEFAULTS, **said)  # type: ignore[arg-type]


_DEFAULTS = SamplingParams(
    max_new_tokens=128,
    stop=(),
    stop_token_ids=(),
    temperature=1.0,
    top_p=1.0,
    top_k=-1,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    ignore_eos=False,
)


def merge(defaults: SamplingParams, overrides: SamplingParams) -> SamplingParams:
    """`defaults`, with every field that `overrides` sets."""
    if _FORMS(overrides).count(None) < len(CONSTRAINTS):
        defaults = replace(defaults, **dict.fromkeys(CONSTRAINTS))
    # Done for each generation. Both were checked when they were made, so what is made of them is not.
    merged = object.__new__(SamplingParams)
    for write, ours, theirs in zip(_WRITES, _VALUES(defaults), _VALUES(overrides), strict=True):
        write(merged, ours if theirs is None else theirs)
    return merged


def strings(value: str | Iterable[str] | None, name: str = "stop") -> tuple[str, ...] | None:
    """One string or several, as a tuple. Raises ProgramError, naming the parameter, for what is neither."""
    if value is None:
        return None
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable):
        raise ProgramError(f"{name} must be a str or several, not {type(value).__name__}")
    several: tuple[object, ...] = tuple(value)
    if wrong := [entry for entry in several if not isinstance(entry, str)]:
        raise ProgramError(f"{name} must be a str or several, not one of {type(wrong[0]).__name__}")
    return tuple(map(str, several))


def token_ids(value: object) -> tuple[int, ...] | None:
    """Token ids as a tuple. Raises ProgramError for what is no list of ints."""
    if value is None:
        return None
    several = tuple(value) if isinstance(value, Iterable) else None
    if several is None or any(type(entry) is not int for entry in several):
        raise ProgramError(f"stop_token_ids must be a list of ints, not {value!r}")
    return several


def biases(value: object) -> dict[int, float] | None:
    """A copy of `logit_bias`. Raises ProgramError for what is no dict."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ProgramError(f"logit_bias must be a dict of token ids and numbers, not {value!r}")
    return dict(value)
