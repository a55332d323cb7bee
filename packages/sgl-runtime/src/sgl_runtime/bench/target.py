# SPDX-License-Identifier: Apache-2.0
"""What must be known of a server before it can be asked: its model, vocabulary, and perhaps a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sgl_runtime.bench.client import fetch
from sgl_runtime.bench.options import LEAST_VOCABULARY, ServingOptions
from sgl_runtime.bench.protocols import Api
from sgl_runtime.bench.requests import Load, Request, Vocabulary
from sgl_runtime.checkpoint.locate import locate
from sgl_runtime.config import Environment
from sgl_runtime.errors import ConfigError
from sgl_runtime.text.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Target:
    """A server that can be asked."""

    model: str
    vocabulary: Vocabulary
    tokenizer: Tokenizer | None  # None: nobody needs it
    takes_ids: bool

    def prompt(self, ids: list[int]) -> list[int] | str:
        """The ids, or their text for a server that takes no ids."""
        if self.takes_ids:
            return ids
        assert self.tokenizer is not None, "who takes no ids is asked in text"
        return self.tokenizer.decode(ids)

    def spoken(self, load: Load, *, ignore_eos: bool) -> Load:
        """The load as this server can be asked; unless `ignore_eos`, answers may end by themselves."""

        def say(request: Request) -> Request:
            prompt = request.prompt if isinstance(request.prompt, str) else self.prompt(request.prompt)
            return replace(request, prompt=prompt, ignore_eos=request.ignore_eos and ignore_eos)

        return replace(
            load, conversations=[[say(request) for request in talk] for talk in load.conversations]
        )


async def find_target(session: Any, options: ServingOptions, api: Api, base: str) -> Target:
    """Ask the server at `base` what the options do not say.

    Raises ConfigError if it does not answer, or something is missing that it does not tell.
    """
    model = options.model
    listed = await fetch(session, f"{base}/v1/models") if model is None else None
    if model is None:
        model = _first_model(listed)
        if model is None:
            raise ConfigError(f"{base}/v1/models names no model: give --model")
    told = await fetch(session, f"{base}/get_model_info")
    told = told if isinstance(told, dict) else {}
    wanted = not api.takes_ids or options.dataset_path is not None
    tokenizer = _tokenizer(options.tokenizer, [told.get("model_path"), model], wanted=wanted)
    size = options.vocab_size or (
        len(tokenizer.vocabulary) if tokenizer is not None else told.get("vocab_size")
    )
    if type(size) is not int or size < LEAST_VOCABULARY:
        raise ConfigError(
            "the server does not say how large its vocabulary is: give --vocab-size, or --tokenizer"
        )
    return Target(model, Vocabulary(size), tokenizer, api.takes_ids)


def _first_model(listed: Any) -> str | None:
    match listed:
        case {"data": [{"id": str(name)}, *_]}:
            return name
    return None


def _tokenizer(asked: str | None, guesses: list[Any], *, wanted: bool) -> Tokenizer | None:
    """The one that is asked for, or if one is wanted the one that lies where the server's model does."""
    modelscope = Environment.read().use_modelscope
    if asked is not None:
        return load_tokenizer(locate(asked, load_format="dummy", use_modelscope=modelscope))
    if not wanted:
        return None
    for guess in guesses:
        if isinstance(guess, str) and Path(guess).exists():
            return load_tokenizer(locate(guess, load_format="dummy"))
    raise ConfigError(
        "prompts are text here, and are made and counted with the model's tokenizer: give --tokenizer"
    )
