# SPDX-License-Identifier: Apache-2.0
"""Programs that call language models: `import sgl_lang as sgl`.

What `__all__` names is public; everything else may change. Backends that speak HTTP are imported when they
are first asked for, and with them their clients, so that importing this package costs little. Those of
vendors, `OpenAI`, `Anthropic`, `VertexAI` and `LiteLLM`, are public too, but not in `__all__`: each needs its
extra, and `from sgl_lang import *` needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sgl_lang.async_state import AsyncState
from sgl_lang.backends.protocol import Backend, Capabilities, Completion, OptionScore, Prompt, Scores
from sgl_lang.backends.scripted import Scripted
from sgl_lang.chat import ChatTemplate, Markup
from sgl_lang.choices import (
    ChoicesMethod,
    Decision,
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from sgl_lang.default import flush_cache, get_server_args, set_default_backend
from sgl_lang.errors import BackendError, ProgramError, SglError, UnsupportedByBackend
from sgl_lang.forks import AsyncForks, Forks
from sgl_lang.ir import Expr
from sgl_lang.media import Image, Video
from sgl_lang.primitives import (
    assistant,
    assistant_begin,
    assistant_end,
    gen,
    gen_int,
    gen_string,
    image,
    select,
    system,
    system_begin,
    system_end,
    user,
    user_begin,
    user_end,
    video,
)
from sgl_lang.program import Program, function
from sgl_lang.sampling import SamplingParams
from sgl_lang.state import State
from sgl_lang.traced import Trace
from sgl_lang.transcript import Message
from sgl_lang.usage import Usage

if TYPE_CHECKING:
    from sgl_lang.backends.anthropic import Anthropic as Anthropic
    from sgl_lang.backends.litellm import LiteLLM as LiteLLM
    from sgl_lang.backends.openai import OpenAI as OpenAI
    from sgl_lang.backends.runtime import RuntimeEndpoint
    from sgl_lang.backends.vertex import VertexAI as VertexAI
    from sgl_lang.server import Runtime

    __version__: str

__all__ = [
    "AsyncForks",
    "AsyncState",
    "Backend",
    "BackendError",
    "Capabilities",
    "ChatTemplate",
    "ChoicesMethod",
    "Completion",
    "Decision",
    "Expr",
    "Forks",
    "Image",
    "Markup",
    "Message",
    "OptionScore",
    "Program",
    "ProgramError",
    "Prompt",
    "Runtime",
    "RuntimeEndpoint",
    "SamplingParams",
    "Scores",
    "Scripted",
    "SglError",
    "State",
    "Trace",
    "UnsupportedByBackend",
    "Usage",
    "Video",
    "__version__",
    "assistant",
    "assistant_begin",
    "assistant_end",
    "flush_cache",
    "function",
    "gen",
    "gen_int",
    "gen_string",
    "get_server_args",
    "greedy_token_selection",
    "image",
    "select",
    "set_default_backend",
    "system",
    "system_begin",
    "system_end",
    "token_length_normalized",
    "unconditional_likelihood_normalized",
    "user",
    "user_begin",
    "user_end",
    "video",
]

_LAZY = {"Runtime": "sgl_lang.server", "RuntimeEndpoint": "sgl_lang.backends.runtime"}
# Their modules in `backends`, which are called like the extras they need.
_VENDORS = {"Anthropic": "anthropic", "LiteLLM": "litellm", "OpenAI": "openai", "VertexAI": "vertex"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("sgl-lang")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _VENDORS:
        return _vendor(name, _VENDORS[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_VENDORS})


def _vendor(name: str, extra: str) -> Any:
    try:
        return getattr(importlib.import_module(f"sgl_lang.backends.{extra}"), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{name} needs the package {error.name!r}, not installed: pip install 'sgl-lang[{extra}]'"
        ) from None
