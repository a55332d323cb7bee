# SPDX-License-Identifier: Apache-2.0
"""What is said to an sgl-runtime server, as functions of values: bodies of requests, and scores from answers.

Nothing here sends anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sgl_lang.backends.protocol import OptionScore, Prompt, Scores
from sgl_lang.errors import BackendError, ProgramError
from sgl_lang.media import Image, Media
from sgl_lang.sampling import LOGPROBS, Dtype, SamplingParams

# What a text of a type looks like. Numbers end with a blank or a new line, so that one knows when they do.
_DTYPES: Mapping[Dtype, tuple[str, tuple[str, ...]]] = {
    "int": (r"[-+]?[0-9]+[ \n]*", (" ", "\n")),
    "float": (r"[-+]?[0-9]*\.?[0-9]+[ \n]*", (" ", "\n")),
    "bool": (r"(True|False)", ()),
    "str": (r'"[\w\d\s]*"', ()),
}


def generation(prompt: Prompt, params: SamplingParams, *, stream: bool) -> dict[str, Any]:
    """The body of POST /generate; what is None is left to the server."""
    said = params.said()
    beside = {name: said.pop(name) for name in LOGPROBS if name in said}
    if (dtype := said.pop("dtype", None)) is not None:
        said["regex"], stop = _DTYPES[dtype]
        said["stop"] = (*said.get("stop", ()), *stop)
    return {
        "rid": prompt.rid,
        "text": prompt.text,
        "sampling_params": said,
        "stream": stream,
        **_shown(prompt.media),
        **beside,
    }


def boundary(before: Sequence[int], after: Sequence[Sequence[int]]) -> int:
    """Where options begin: the number of leading tokens that the prompt and all continuations agree on.

    Where the end of the prompt and the beginning of an option make up one token, that lies before the
    prompt's end; then all options are scored from there, over the same stretch of text. At least one token of
    each is scored, so an option that is empty is as likely as the prompt's last token. Raises ProgramError if
    nothing stands before the options, since then nothing makes one of them likely.
    """
    start = min(len(before), *(len(ids) - 1 for ids in after))
    for ids in after:
        while before[:start] != ids[:start]:
            start -= 1
    if start < 1:
        raise ProgramError("a choice is made after some text, and there is none before this one")
    return start


def scoring(prompt: Prompt, tokens: Sequence[Sequence[int]], start: int) -> dict[str, Any]:
    """The body of POST /generate that asks for log-probabilities of `tokens`, each from `start` on."""
    return {
        "rid": prompt.rid,
        "input_ids": list(tokens),
        "sampling_params": {"max_new_tokens": 0, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": start,
        "stream": False,
        **_shown(prompt.media, prompts=len(tokens)),
    }


def scores(answers: Sequence[Mapping[str, Any]], alone: Sequence[Mapping[str, Any]] | None) -> Scores:
    """What the answers to `scoring` say."""
    options = []
    for index, answer in enumerate(answers):
        entries = _entries(answer)
        bare = None if alone is None else tuple(entry[0] or 0.0 for entry in _entries(alone[index]))
        if any(entry[0] is None for entry in entries):
            raise BackendError("the server gave a token of a choice no log-probability")
        options.append(
            OptionScore(tuple(e[0] for e in entries), bare, tokens=tuple(int(e[1]) for e in entries))
        )
    told = [answer["meta_info"] for answer in (*answers, *(alone or ()))]
    counts = ("prompt_tokens", "cached_tokens", "completion_tokens")
    return Scores(tuple(options), {name: sum(int(meta.get(name) or 0) for meta in told) for name in counts})


def first_match(text: str, patterns: Sequence[str]) -> re.Match[str] | None:
    """The match of any of the patterns that begins first, if it holds a character."""
    found = [match for pattern in patterns for match in re.finditer(pattern, text) if match.group()]
    return min(found, key=re.Match.start, default=None)


def _entries(answer: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
    entries = answer.get("meta_info", {}).get("input_token_logprobs")
    if not entries:
        raise BackendError("the server answered without input_token_logprobs, so choices cannot be scored")
    return entries  # type: ignore[no-any-return]


def _shown(media: Sequence[Media], prompts: int | None = None) -> dict[str, Any]:
    """`image_data`: one entry for each image and video, in order; of several prompts a list for each."""
    if not media:
        return {}
    entries = [m.location if isinstance(m, Image) else f"video:{m.num_frames}:{m.location}" for m in media]
    return {"image_data": entries if prompts is None else [entries] * prompts}
