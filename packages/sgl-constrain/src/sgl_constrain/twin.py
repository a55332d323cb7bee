# SPDX-License-Identifier: Apache-2.0
"""The extension module in C, where it was built: who has it, and what it offers.

`automaton` gives it continuations and states, `engine` the walk over the trie. Both work without it, with
the same results. `native()` says whether new grammars use it; SGL_CONSTRAIN_PURE=1 in the environment forbids
it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.config import pure_only
from sgl_constrain.trie import Bits, Ints, Nodes

Table = NDArray[np.uint16]
T_co = TypeVar("T_co", covariant=True)


class Sequenced(Protocol[T_co]):
    """Things by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> T_co: ...


class Continuations(Sequenced[tuple[int, int]], Protocol):
    """The twin of `Automaton._then` and `_closure`: (expression, rest) by number."""

    def then(self, expression: int, rest: int, /) -> int: ...

    def closure(self, continuation: int, /) -> tuple[int, ...]: ...


class TwinStates(Sequenced[tuple[int, ...]], Protocol):
    """The twin of `states.States`."""

    def number(self, items: Collection[int], /) -> int: ...

    def step(self, state: int, byte: int, /) -> int: ...

    def moves(self, state: int, /) -> tuple[tuple[int, int], ...]: ...

    def moves_on(self, state: int, among: int, /) -> Iterable[tuple[int, int]]: ...

    def accepts(self, state: int, /) -> bool: ...

    def begins(self, state: int, /) -> int: ...

    def unbounded(self, state: int, most: int, /) -> int | None:
        """As of `Automaton`; None where products with large counts are in the state."""
        ...

    def start_clock(self, seconds: float, /) -> None:
        """For so long states are admitted without a question, where no other limit is near."""
        ...

    def held(self) -> int: ...

    def product(self, head: int, /) -> tuple[bool, int, int]: ...

    def product_head(self, both: bool, left: int, right: int, /) -> int: ...

    def is_live(self, head: int, /) -> bool: ...

    def farthest(self) -> int:
        """As of `Liveness`, of what the twin found itself."""
        ...

    def everything(self, state: int, /) -> None:
        """Says which state reads any text."""
        ...


class Tree(Protocol):
    """A copy of a trie, which writes the bits of tokens that may come next."""

    def learn(self, edges: bytes, table: Table, /) -> None:
        """A usual class: its edges beyond ASCII, as `utf8.packed`, and how it and ASCII are read."""
        ...

    def key(self, mask: Bits, /) -> bytes:
        """As `differing` from none set; where these are many 32 bytes, which others seldom have."""
        ...

    def differing(self, mask: Bits, base: Bits | None, /) -> bytes | None:
        """The words in which a mask differs from another, or from none set; None where these are many."""
        ...

    def restore(self, mask: tuple[bytes, Bits | None], out: Ints, row: int, /) -> None:
        """Writes a mask, as it differs from which, into a row of [n, words]."""
        ...

    def walk(self, states: TwinStates, state: int, out: Bits, /) -> None:
        """Sets bits of `out`."""
        ...

    def fill(self, states: TwinStates, state: int, out: Bits, /) -> None:
        """Writes all of them."""
        ...


class Engine:
    """module: None when it was not built, or is not wanted."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self._trees: WeakKeyDictionary[Nodes, tuple[Any, Tree]] = WeakKeyDictionary()  # and whose they are

    def tree(self, trie: Nodes, size: int, usual: Callable[[], Iterable[tuple[bytes, Table]]]) -> Tree:
        """usual: as `Slices.usual`."""
        module, known = self._trees.get(trie, (None, None))
        if known is None or module is not self.module:
            roots = trie.levels[0].stop if trie.levels else 0
            made: Tree = self.module.Tree(
                trie.byte, trie.child_count, trie.token_at, trie.alias, trie.aliased, roots, size
            )
            for edges, table in usual():
                made.learn(edges, table)
            self._trees[trie] = self.module, made
            return made
        return known

    def continuations(
        self,
        describe: Callable[[int], tuple[int, ...]],
        check: Callable[[int], None],
    ) -> Continuations | None:
        if self.module is None:
            return None
        made: Continuations = self.module.Continuations(describe, check)
        return made

    def states(
        self,
        continuations: Continuations,
        *,
        edges: Callable[[int], bytes],
        counts: Callable[[int], tuple[int, ...]],
        widest: Callable[[Sequence[int]], Sequence[int]],
        admit: Callable[[int, int], None],
        shortest: Callable[[int], int],
        distance: Callable[[int], int],
        uncounted: Callable[[int, int], int],
        most_states: int,
        most_held: int,
    ) -> TwinStates:
        """As `states.States`, which asks nearly the same. edges: as `utf8.packed`, or a head's text; counts,
        widest: of `Covering`; admit: may there be one more state, of so many items, with so many in all?
        shortest: of an expression; distance: of a product, as of `Liveness`, asked where the twin does not
        find it soon; uncounted: a repetition that no longer counts beyond so many.
        """
        asked = edges, counts, widest, admit, shortest, distance, uncounted
        made: TwinStates = self.module.States(continuations, *asked, most_states, most_held)
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
