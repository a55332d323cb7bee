# SPDX-License-Identifier: Apache-2.0
"""Keywords that combine schemas for the same value."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sgl_constrain.errors import UnsupportedSchema
from sgl_constrain.schema.conditions import NoComplement
from sgl_constrain.schema.sets import EVERYTHING, NOTHING, Values
from sgl_constrain.schema.terms import NEVER, Term, meet

if TYPE_CHECKING:
    from sgl_constrain.schema.reading import Reader


def all_of(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    for branch in reader.subschemas(number, schema, "allOf"):
        values = reader.meet(values, reader.in_place(branch))
    return values


def any_of(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    some = NOTHING
    for branch in reader.subschemas(number, schema, "anyOf"):
        one = reader.in_place(branch)
        if reader.document.unevaluated:  # a value in several branches was looked at by all of them
            some = some.union(reader.meet(some, one))
        some = some.union(one)
    return reader.meet(values, some)


def one_of(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    terms = [reader.term(branch) for branch in reader.subschemas(number, schema, "oneOf")]
    overlap = [
        (i, j)
        for i, j in combinations(range(len(terms)), 2)
        if not _apart(reader, values, terms[i], terms[j])
    ]
    one = NOTHING
    for i, term in enumerate(terms):
        alone = reader.values(term)
        for j in (a + b - i for a, b in overlap if i in (a, b)):
            try:
                alone = reader.meet(alone, _outside(reader, terms[j], number, "oneOf"))
            except UnsupportedSchema as refusal:
                reader.leave_out(number, refusal)  # a value may then satisfy several branches
        one = one.union(alone)
    return reader.meet(values, one)


def _apart(reader: Reader, values: Values, left: Term, right: Term) -> bool:
    if reader.is_empty(meet(left, right)):
        return True
    common = reader.meet(values, reader.meet(reader.values(left), reader.values(right)))
    return common == NOTHING or reader.is_empty_set(common, 3)


def _outside(reader: Reader, term: Term, number: int, keyword: str) -> Values:
    """Everything that `term` does not allow."""
    if term == NEVER:
        return EVERYTHING
    values = reader.values(term)
    if reader.is_in_part(term):
        raise reader.unsupported(number, keyword, "needs the opposite of what is left out in part")
    try:
        return values.complement(reader.patterns.matches).forget_evaluated()
    except NoComplement as error:
        reason = f"needs the opposite of {error.keyword!r}, which cannot be enforced exactly"
        raise reader.unsupported(number, keyword, reason) from error


def negation(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return reader.meet(
        values, _outside(reader, reader.term(reader.document.at(number, "not")), number, "not")
    )


def if_then_else(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    if "then" not in schema and "else" not in schema and not reader.document.unevaluated:
        return values
    condition = reader.term(reader.document.at(number, "if"))
    yes, no = reader.values(condition), _outside(reader, condition, number, "if")
    if "then" in schema:
        yes = reader.meet(yes, reader.in_place(reader.document.at(number, "then")))
    if "else" in schema:
        no = reader.meet(no, reader.in_place(reader.document.at(number, "else")))
    return reader.meet(values, yes.union(no))
