# SPDX-License-Identifier: Apache-2.0
"""Subschemas -> sets of values: a schema is the intersection of what its keywords (`keywords`) allow.

Nothing is dropped: what cannot be read exactly raises UnsupportedSchema, or is a warning if the user asked
for that. Each subschema is read once; knows nothing of how values are written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

from sgl_constrain.errors import GrammarTooLarge, InvalidSchema, UnsupportedSchema
from sgl_constrain.schema.conditions import NoComplement, Objects, Strings
from sgl_constrain.schema.document import Document, children
from sgl_constrain.schema.keywords.table import ANNOTATIONS, BARE, ORDER, READERS
from sgl_constrain.schema.patterns import Patterns
from sgl_constrain.schema.sets import EVERYTHING, NOTHING, Values, decimal
from sgl_constrain.schema.terms import ANYTHING, NEVER, Term

_REFERENCE = frozenset(("$ref", *ANNOTATIONS))
_REFERENCES = frozenset(("$ref", "$dynamicRef", "$recursiveRef"))
_IN_PLACE = frozenset(("allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas", "dependencies"))
_MOST_LOOKS = 8  # at what is not read yet, each to read what the one before asks for


class EndlessReference(InvalidSchema):
    """What a schema allows depends on what it allows."""


class Reader:
    """Terms -> the values they allow. `warnings` grows while `lenient` reading leaves things out."""

    def __init__(self, document: Document, patterns: Patterns, *, lenient: bool) -> None:
        self.document = document
        self.warnings: list[str] = []
        self.patterns = patterns
        self.lenient = lenient
        self._read: dict[int, Values] = {}
        self._reading: set[int] = set()
        self._in_part: set[int] = set()
        self._looks = 0  # inside of one another
        self._values: dict[Term, Values] = {}
        self._constants: dict[str, Term] = {}
        self._bare_types: dict[str, Term] = {}
        self._unions: dict[tuple[Term, ...], Term] = {}
        self._union_of: dict[int, tuple[Term, ...]] = {}
        self.start_clock()

    def start_clock(self) -> None:
        """What is read from now on may take `limits.seconds`."""
        self._deadline = time.monotonic() + self.document.limits.seconds

    # -- terms -----------------------------------------------------------------------------------------------

    def term(self, number: int) -> Term:
        """The term of one subschema; references that say nothing else are followed."""
        seen: set[int] = set()
        while True:
            schema = self.document.schemas[number]
            if not isinstance(schema, dict):
                return ANYTHING if schema is True else NEVER if schema is False else frozenset((number,))
            if not schema:
                return ANYTHING
            if "type" in schema and schema.keys() <= BARE:
                return self._bare_type(number, schema["type"])
            if "$ref" not in schema or (schema.keys() - _REFERENCE and not self.document.old):
                return frozenset((number,))
            if number in seen:
                raise InvalidSchema("$ref leads back to itself", path=self.document.paths[number])
            seen.add(number)
            try:
                number = self.document.resolve(number, "$ref")
            except UnsupportedSchema:
                if not self.lenient:
                    raise
                return frozenset((number,))  # reading it leaves the reference out

    def _bare_type(self, number: int, name: Any) -> Term:
        """Schemas that name one type and say nothing else have one term."""
        if not isinstance(name, str):
            return frozenset((number,))
        known = self._bare_types.get(name)
        if known is None:
            added = self.document.added({"type": name}, self.document.paths[number])
            known = self._bare_types[name] = frozenset((added,))
        return known

    def values(self, term: Term) -> Values:
        """The values for which everything in `term` holds."""
        known = self._values.get(term)
        if known is None:
            known = EVERYTHING
            for number in sorted(term, key=lambda n: (n < 0, abs(n))):
                known = self.meet(known, self.read(number) if number >= 0 else self._negated(-number))
            self._values[term] = known
        return known

    def is_empty(self, term: Term, depth: int = 4) -> bool:
        """True only if no value satisfies the term, as far as can be seen `depth` levels down, and in what
        is being read.
        """
        if term == NEVER:
            return True
        if term not in self._values and self._looks == _MOST_LOOKS:
            return False
        self._looks += 1
        try:
            values = self.values(term)
        except EndlessReference:
            return False
        finally:
            self._looks -= 1
        return values == NOTHING or (depth > 0 and self.is_empty_set(values, depth - 1))

    def is_empty_set(self, values: Values, depth: int) -> bool:
        def empty_object(o: Objects) -> bool:
            named = dict(o.named)
            return any(
                self.is_empty(named[key] if key in named else o.unnamed(key, self.patterns.matches), depth)
                for key in o.required
            )

        def empty_string(s: Strings) -> bool:
            return s.values is not None and not any(self.holds(s, value) for value in s.values)

        return not values.constants and not values.numbers and (
            all(map(empty_string, values.strings))
            and all(any(self.is_empty(a.item(i), depth) for i in range(min(a.low, 9))) for a in values.arrays)
            and all(map(empty_object, values.objects))
        )  # fmt: skip

    def holds(self, condition: Strings, text: str) -> bool:
        """Does one string meet a condition?"""
        if not condition.low <= len(text) or (condition.high is not None and len(text) > condition.high):
            return False
        if text in condition.not_values or (condition.values is not None and text not in condition.values):
            return False
        return all(self.patterns.matches(p, text) == holds for p, holds in condition.patterns) and all(
            self.patterns.accepts(self.patterns.format(f), text) == holds for f, holds in condition.formats
        )

    def meet(self, left: Values, right: Values) -> Values:
        if time.monotonic() > self._deadline:
            raise GrammarTooLarge(f"more than {self.document.limits.seconds:g} seconds", limit="seconds")
        return left.meet(right, self.patterns.matches)

    def _negated(self, number: int) -> Values:
        values = self.read(number)
        if self.is_in_part(frozenset((number,))):
            return EVERYTHING
        try:
            return values.complement(self.patterns.matches).forget_evaluated()
        except NoComplement as error:
            path = self.document.paths[number]
            refusal = UnsupportedSchema("cannot be negated exactly here", keyword=error.keyword, path=path)
            if not self.lenient:
                raise refusal from error
            self.warn(refusal)
            return EVERYTHING

    def warn(self, refusal: UnsupportedSchema) -> None:
        if str(refusal) not in self.warnings:
            self.warnings.append(str(refusal))

    def leave_out(self, number: int, refusal: UnsupportedSchema) -> None:
        """Warn that subschema `number` is read without something that it says, or raise `refusal`."""
        if not self.lenient:
            raise refusal
        self.warn(refusal)
        self._in_part.add(number)

    def is_in_part(self, term: Term) -> bool:
        """Was something left out of what the term, which was read, says of a value? Then other values than it
        allows may not be what it does not allow, and keywords may have looked at more than is known.
        """
        pending = list(term) if self._in_part else []
        seen: set[int] = set()
        while pending:
            number = pending.pop()
            if number in self._in_part:
                return True
            if number > 0 and number not in seen:
                seen.add(number)
                pending += self._in_place_of(number)
        return False

    def check_unevaluated(self, number: int, keyword: str) -> None:
        if self.is_in_part(frozenset((number,))):
            raise self.unsupported(number, keyword, "what is left out may have looked at more")

    def _in_place_of(self, number: int) -> Iterator[int]:
        """The subschemas that are read with `number`, for the same value."""
        schema, document = self.document.schemas[number], self.document
        for term in self._union_of.get(number, ()):
            yield from term
        if not isinstance(schema, dict) or number in self._union_of:
            return
        for keyword in _REFERENCES & schema.keys():
            yield document.resolve(number, keyword)
        for step, _ in children(schema):
            if step.partition("/")[0] in _IN_PLACE:
                yield document.at(number, step)

    def know(self, number: int, values: Values) -> None:
        """The values that subschema `number` allows, told without reading it."""
        self._read[number] = values

    # -- one schema ------------------------------------------------------------------------------------------

    def read(self, number: int) -> Values:
        """The values that subschema `number` allows."""
        known = self._read.get(number)
        if known is not None:
            return known
        schema, path = self.document.schemas[number], self.document.paths[number]
        if not isinstance(schema, dict):
            if not isinstance(schema, bool):
                raise InvalidSchema("a schema must be an object or a boolean", path=path)
            return EVERYTHING if schema else NOTHING
        if number in self._reading:
            raise EndlessReference("the schema refers to itself without an end", path=path)
        if len(self._reading) >= self.document.limits.nesting:
            most = self.document.limits.nesting
            message = f"subschemas for one value lead to one another more than {most} times"
            raise GrammarTooLarge(message, limit="nesting")
        self._reading.add(number)
        try:
            if number in self._union_of:
                values = reduce(Values.union, map(self.values, self._union_of[number]))
            else:
                values = self._keywords(number, schema)
        finally:
            self._reading.discard(number)
        self._read[number] = values
        return values

    def _keywords(self, number: int, schema: Mapping[str, Any]) -> Values:
        values = EVERYTHING
        # In older drafts a reference hides everything beside it.
        alone = self.document.old and "$ref" in schema
        keywords = ("$ref",) if alone else sorted(READERS.keys() & schema.keys(), key=ORDER.__getitem__)
        for read in dict.fromkeys([READERS[keyword] for keyword in keywords]):
            try:
                values = read(self, number, schema, values)
            except UnsupportedSchema as refusal:
                self.leave_out(number, refusal)
        return values

    def in_place(self, number: int) -> Values:
        """The values of a subschema that looks at the same value as its parent."""
        return self.values(self.term(number))

    def constant(self, value: Any, path: str) -> Term:
        key = repr(value)
        known = self._constants.get(key)
        if known is None:
            known = self._constants[key] = frozenset((self.document.added({"const": value}, path),))
        return known

    def either(self, terms: tuple[Term, ...], path: str) -> Term:
        """The term of values that satisfy one of `terms`."""
        if len(terms) == 1 or ANYTHING in terms:
            return terms[0] if len(terms) == 1 else ANYTHING
        known = self._unions.get(terms)
        if known is None:
            number = self.document.added({"anyOf": [sorted(term) for term in terms]}, path)
            self._union_of[number] = terms
            known = self._unions[terms] = frozenset((number,))
        return known

    def path(self, number: int) -> str:
        return self.document.paths[number]

    def wrong(self, number: int, keyword: str, expected: str) -> InvalidSchema:
        return InvalidSchema(f"{keyword} must be {expected}", path=self.path(number))

    def unsupported(self, number: int, keyword: str, reason: str) -> UnsupportedSchema:
        return UnsupportedSchema(reason, keyword=keyword, path=self.path(number))

    def count(self, number: int, schema: Mapping[str, Any], keyword: str) -> int:
        try:
            value = decimal(schema[keyword])
        except ValueError as error:
            raise self.wrong(number, keyword, "a number") from error
        if value < 0 or value != value.to_integral_value():
            raise self.wrong(number, keyword, "a whole number, not negative")
        return int(value)

    def subschemas(self, number: int, schema: Mapping[str, Any], keyword: str) -> list[int]:
        if not isinstance(schema[keyword], list) or not schema[keyword]:
            raise self.wrong(number, keyword, "a list of schemas, not empty")
        return [self.document.at(number, f"{keyword}/{i}") for i in range(len(schema[keyword]))]

    def names(self, number: int, keyword: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.wrong(number, keyword, "a list of strings")
        return value

    def mapping(self, number: int, schema: Mapping[str, Any], keyword: str) -> Mapping[str, Any]:
        if not isinstance(schema[keyword], Mapping):
            raise self.wrong(number, keyword, "an object")
        found: Mapping[str, Any] = schema[keyword]
        return found
