# SPDX-License-Identifier: Apache-2.0
"""The extension module in C, where it was built: who has it, and what it offers.

`automaton` gives it continuations and states, `engine` the walk over the trie. Both work without it, with
the same results. `native()` says whether new grammars use it; SGL_CONSTRAIN_PURE=1 in the environment forbids
it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

from sgl_constrain.config import pure_only


class Continuations(Protocol):
    """The twin of `Automaton._then` and `_closure`."""

    def then(self, expression: int, rest: int, /) -> int: ...

    def closure(self, continuation: int, /) -> tuple[int, ...] | None: ...

    def learn(self, continuation: int, items: tuple[int, ...], /) -> None: ...


class TwinStates(Protocol):
    """The twin of `states.States`."""

    def number(self, items: Collection[int], /) -> int: ...

    def step(self, state: int, byte: int, /) -> int: ...

    def moves(self, state: int, /) -> tuple[tuple[int, int], ...]: ...

    def moves_on(self, state: int, among: int, /) -> Iterable[tuple[int, int]]: ...

    def begins(self, state: int, /) -> int: ...

    def held(self) -> int: ...


class Engine:
    """module: None when it was not built, or is not wanted."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def continuations(
        self,
        describe: Callable[[int], tuple[int, ...]],
        check: Callable[[int], None],
        pairs: list[tuple[int, int]],
    ) -> Continuations | None:
        if self.module is None:
            return None
        made: Continuations = self.module.Continuations(describe, check, pairs)
        return made

    def states(
        self,
        continuations: Continuations,
        all: list[tuple[int, ...]],
        *,
        edges: Callable[[int], bytes],
        product_items: Callable[[int, int], Collection[int]],
        closure: Callable[[int], Collection[int]],
        counts: Callable[[int], tuple[int, ...]],
        widest: Callable[[Sequence[int]], Sequence[int]],
        admit: Callable[[int, int], None],
        most_states: int,
        most_held: int,
    ) -> TwinStates:
        """As `states.States`, which asks nearly the same. edges: as `utf8.packed`; counts, widest: of
        `Covering`; admit: may there be one more state, of so many items, with so many in all?
        """
        made: TwinStates = self.module.States(
            continuations, all, edges, product_items, closure, counts, widest, admit, most_states, most_held
        )
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
