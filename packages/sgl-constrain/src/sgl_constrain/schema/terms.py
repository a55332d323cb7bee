# SPDX-License-Identifier: Apache-2.0
"""Terms: what a place in a document demands, as the numbers of subschemas that must hold or must not. Knows
nothing of what the subschemas say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# The subschemas that must hold, and (negative) those that must not. The empty term allows everything.
Term = frozenset[int]
ANYTHING: Final[Term] = frozenset()
NEVER: Final[Term] = frozenset((0,))  # subschema 0 is `false`, and has no opposite


def opposite(term: Term) -> Iterator[Term]:
    """The terms of which at least one holds exactly where `term` does not."""
    for number in term:
        yield ANYTHING if number == 0 else frozenset((-number,))


def meet(left: Term, right: Term) -> Term:
    term = left | right
    if 0 in term or any(-number in term for number in term):
        return NEVER
    return term
