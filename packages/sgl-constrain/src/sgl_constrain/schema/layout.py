# SPDX-License-Identifier: Apache-2.0
"""Where whitespace may stand in a JSON text: bounded by default, so that a model cannot write blanks
for ever.
"""

from __future__ import annotations

from sgl_constrain.expression import Expressions


class Layout:
    """The punctuation of JSON with the whitespace around it. None stands before or after the whole text."""

    def __init__(self, expressions: Expressions, max_whitespace: int) -> None:
        blank = expressions.character(((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x20)))
        space = expressions.repeat(blank, 0, max_whitespace)
        sequence, literal = expressions.sequence, expressions.literal
        self.comma = sequence(space, literal(","), space)
        self.colon = sequence(space, literal(":"), space)
        self.open_array = sequence(literal("["), space)
        self.close_array = sequence(space, literal("]"))
        self.empty_array = sequence(literal("["), space, literal("]"))
        self.open_object = sequence(literal("{"), space)
        self.close_object = sequence(space, literal("}"))
