# SPDX-License-Identifier: Apache-2.0
"""Everything this library refuses, as one family.

ConstrainError (ValueError)
├── InvalidPattern       not a regular expression, or one that no string matches
│   └── UnsupportedPattern   a construct that is not regular (or not yet ours), by name and position
├── InvalidSchema        not a JSON Schema, or one that no value satisfies
│   └── UnsupportedSchema    a keyword that cannot be enforced exactly, with its path
├── InvalidGrammar       not a grammar in GBNF or Lark's notation, with line and column
├── InvalidVocabulary    token bytes or ids that cannot be right
└── GrammarTooLarge      one of `Limits` is reached
"""

from __future__ import annotations


class ConstrainError(ValueError):
    """An error with a sentence meant for the person who wrote the pattern, the schema or the limits."""


class InvalidPattern(ConstrainError):
    """`position` counts characters from the start of the pattern; None when the pattern as a whole
    is wrong.
    """

    def __init__(self, message: str, *, pattern: str, position: int | None = None) -> None:
        where = "" if position is None else f" at position {position}"
        shown = pattern if len(pattern) <= 120 else pattern[:117] + "..."
        super().__init__(f"{message}{where} in pattern {shown!r}")
        self.position = position


class UnsupportedPattern(InvalidPattern):
    """The construct has a meaning in Python's `re`, but this library cannot enforce it exactly."""


class InvalidSchema(ConstrainError):
    """`path` is a JSON pointer to the schema that is at fault."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(f"{message} (at {path or '/'})")
        self.path = path


class UnsupportedSchema(InvalidSchema):
    """A keyword that has a meaning but cannot be enforced exactly where it stands."""

    def __init__(self, message: str, *, keyword: str, path: str) -> None:
        super().__init__(f"{keyword!r}: {message}", path=path)
        self.keyword = keyword


class InvalidGrammar(ConstrainError):
    """`line` and `column` count characters from 1; `column` is None when the grammar as a whole is wrong."""

    def __init__(self, message: str, *, line: int, column: int | None = None) -> None:
        super().__init__(f"{message} (line {line}{'' if column is None else f', column {column}'})")
        self.line = line
        self.column = column


class InvalidVocabulary(ConstrainError):
    """The tokens given do not make a vocabulary."""


class GrammarTooLarge(ConstrainError):
    """A limit was reached; `limit` is the name of the field of `Limits` to raise."""

    def __init__(self, message: str, *, limit: str) -> None:
        super().__init__(f"{message} (Limits.{limit})")
        self.limit = limit
