# SPDX-License-Identifier: Apache-2.0
"""`Limits`: how much one grammar may cost before it is refused. Hostile input ends in `GrammarTooLarge`, not
in an exhausted machine.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one grammar. Each is checked where the thing is made, so nothing grows far past its bound."""

    source_chars: int = 2_000_000  # length of a pattern, or of a schema as JSON text
    nesting: int = 80  # depth of groups in a pattern, of subschemas in a schema
    expressions: int = 500_000  # nodes and continuations together
    items: int = 20_000  # items of one state: how many ways of reading the text are open at once
    states: int = 200_000  # distinct states met so far, and a fifth of the items of all of them together
    rows: int = (
        50_000  # transition rows kept, 1 KiB each; beyond it they are dropped and built again when needed
    )
    mask_bytes: int = (
        256 << 20
    )  # masks kept by one grammar; beyond it they are dropped and built again when needed
    seconds: float = 10.0  # for one compilation
    step_seconds: float | None = None  # for one mask, step or forced text of what is compiled; None: the same


DEFAULT_LIMITS = Limits()
