# SPDX-License-Identifier: Apache-2.0
"""The extension module in C, where it was built: who has it, and what it offers.

`automaton` gives it the reading of continuations, `engine` the walk over the trie. Both work without it, with
the same results. `native()` says whether new grammars use it; SGL_CONSTRAIN_PURE=1 in the environment forbids
it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

from sgl_constrain.config import pure_only


class Twin(Protocol):
    """Continuations and the items they begin with: the twin of `Automaton._then` and `_closure`."""

    def then(self, expression: int, rest: int, /) -> int: ...

    def closure(self, continuation: int, /) -> tuple[int, ...] | None: ...

    def learn(self, continuation: int, items: tuple[int, ...], /) -> None: ...

    def after(self, edges: tuple[int, ...], /) -> tuple[int, ...] | None: ...


class Engine:
    """module: None when it was not built, or is not wanted."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def continuations(
        self,
        describe: Callable[[int], tuple[int, ...]],
        check: Callable[[int], None],
        pairs: list[tuple[int, int]],
    ) -> Twin | None:
        if self.module is None:
            return None
        made: Twin = self.module.Continuations(describe, check, pairs)
        return made


def _load() -> Any:
    if pure_only():
        return None
    try:
        return importlib.import_module("sgl_constrain._native")
    except ImportError:
        return None


ENGINE = Engine(_load())


def native() -> bool:
    """Do grammars use the twin in C? Where it was built (`SGL_CONSTRAIN_NATIVE=1` when the wheel was made)
    and not forbidden (`SGL_CONSTRAIN_PURE=1` in the environment); masks are the same either way.
    """
    return ENGINE.module is not None
