# SPDX-License-Identifier: Apache-2.0
"""Keywords -> sets of values. The table `KEYWORDS` names every keyword of JSON Schema and what becomes of it.

Each reader returns the set that its keyword (with those it works together with) allows; a schema is the
intersection. Nothing is dropped: what cannot be read exactly raises UnsupportedSchema, or is a warning if the
user asked for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from itertools import combinations
from typing import Any, Final

from sgl_constrain.errors import InvalidSchema, UnsupportedSchema
from sgl_constrain.schema.document import Document
from sgl_constrain.schema.patterns import Patterns
from sgl_constrain.schema.sets import (
    ANYTHING,
    EVERYTHING,
    NEVER,
    NOTHING,
    Arrays,
    Contains,
    Layer,
    NoComplement,
    Numbers,
    Objects,
    Strings,
    Term,
    Values,
    decimal,
    meet,
    of_value,
)
from sgl_constrain.schema.strings import FORMATS

_ANNOTATIONS = (
    *("$comment", "$defs", "$id", "$anchor", "$dynamicAnchor", "$schema", "$vocabulary", "definitions", "id"),
    *(
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "deprecated",
        "description",
        "examples",
    ),
    *("readOnly", "title", "writeOnly"),
)
_REFUSED = ("$recursiveAnchor", "$recursiveRef", "disallow", "divisibleBy", "extends")
_TYPES: Final = {
    "null": replace(NOTHING, constants=frozenset((None,))),
    "boolean": replace(NOTHING, constants=frozenset((False, True))),
    "number": replace(NOTHING, numbers=(Numbers(),)),
    "integer": replace(NOTHING, numbers=(Numbers(integer=True),)),
    "string": replace(NOTHING, strings=(Strings(),)),
    "array": replace(NOTHING, arrays=(Arrays(),)),
    "object": replace(NOTHING, objects=(Objects(),)),
}


class Reader:
    """Terms -> the values they allow. `warnings` grows while `lenient` reading leaves things out."""

    def __init__(self, document: Document, patterns: Patterns, *, lenient: bool) -> None:
        self.document = document
        self.warnings: list[str] = []
        self._patterns = patterns
        self.lenient = lenient
        self._read: dict[int, Values] = {}
        self._reading: set[int] = set()
        self._values: dict[Term, Values] = {}
        self._constants: dict[str, Term] = {}

    # -- terms -----------------------------------------------------------------------------------------------

    def term(self, number: int) -> Term:
        """The term of one subschema; references that say nothing else are followed."""
        seen: set[int] = set()
        while True:
            schema = self.document.schemas[number]
            if schema is True or schema == {}:
                return ANYTHING
            if schema is False:
                return NEVER
            reference = isinstance(schema, Mapping) and "$ref" in schema
            if not reference or (schema.keys() - {"$ref", *_ANNOTATIONS} and not self.document.old):
                return frozenset((number,))
            if number in seen:
                raise InvalidSchema("$ref leads back to itself", path=self.document.paths[number])
            seen.add(number)
            try:
                number = self.document.resolve(number, "$ref")
            except UnsupportedSchema as refusal:
                if not self.lenient:
                    raise
                self.warn(refusal)
                return ANYTHING

    def values(self, term: Term) -> Values:
        """The values for which everything in `term` holds."""
        known = self._values.get(term)
        if known is None:
            known = EVERYTHING
            for number in sorted(term, key=lambda n: (n < 0, abs(n))):
                known = self._meet(known, self.read(number) if number >= 0 else self._negated(-number))
            self._values[term] = known
        return known

    def is_empty(self, term: Term, depth: int = 4) -> bool:
        """True only if no value satisfies the term, as far as can be seen `depth` levels down."""
        if term == NEVER:
            return True
        values = self.values(term)
        return values == NOTHING or (depth > 0 and self._is_empty(values, depth - 1))

    def _is_empty(self, values: Values, depth: int) -> bool:
        def empty_object(o: Objects) -> bool:
            named = dict(o.named)
            return any(
                self.is_empty(named[key] if key in named else o.unnamed(key, self._patterns.matches), depth)
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
        return all(self._patterns.matches(p, text) == holds for p, holds in condition.patterns) and all(
            self._patterns.accepts(self._patterns.format(f), text) == holds for f, holds in condition.formats
        )

    def _meet(self, left: Values, right: Values) -> Values:
        return left.meet(right, self._patterns.matches)

    def _negated(self, number: int) -> Values:
        try:
            return self.read(number).complement(self._patterns.matches).forget_evaluated()
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

    # -- one schema ------------------------------------------------------------------------------------------

    def read(self, number: int) -> Values:
        """The values that subschema `number` allows."""
        known = self._read.get(number)
        if known is not None:
            return known
        schema, path = self.document.schemas[number], self.document.paths[number]
        if isinstance(schema, bool):
            return EVERYTHING if schema else NOTHING
        if not isinstance(schema, Mapping):
            raise InvalidSchema("a schema must be an object or a boolean", path=path)
        if number in self._reading:
            raise InvalidSchema("the schema refers to itself without an end", path=path)
        self._reading.add(number)
        values = EVERYTHING
        # In older drafts a reference hides everything beside it.
        alone = self.document.old and "$ref" in schema
        named = (k for k in schema if k in _READERS and (k == "$ref" or not alone))
        readers = [_READERS[keyword] for keyword in sorted(named, key=_ORDER.__getitem__)]
        for read in dict.fromkeys(readers):
            try:
                values = read(self, number, schema, values)
            except UnsupportedSchema as refusal:
                if not self.lenient:
                    raise
                self.warn(refusal)
        self._reading.discard(number)
        self._read[number] = values
        return values

    def in_place(self, number: int) -> Values:
        """The values of a subschema that looks at the same value as its parent."""
        return self.values(self.term(number))

    def constant(self, value: Any, path: str) -> Term:
        key = repr(value)
        known = self._constants.get(key)
        if known is None:
            known = self._constants[key] = frozenset((self.document.constant(value, path),))
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

    # -- keywords for every type -----------------------------------------------------------------------------

    def _ref(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        keyword = "$ref" if "$ref" in schema else "$dynamicRef"
        return self._meet(values, self.in_place(self.document.resolve(number, keyword)))

    def _type(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(n, str) and n in _TYPES for n in names)
        ):
            raise self.wrong(number, "type", f"one or several of {', '.join(_TYPES)}")
        return self._meet(values, reduce(Values.union, (_TYPES[name] for name in names)))

    def _enum(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        if not isinstance(schema["enum"], list) or not schema["enum"]:
            raise self.wrong(number, "enum", "a list of values, not empty")
        texts = frozenset(value for value in schema["enum"] if isinstance(value, str))
        some = replace(NOTHING, strings=(Strings(values=texts),) if texts else ())
        for value in schema["enum"]:
            if not isinstance(value, str):
                some = some.union(self._value(number, "enum", value))
        return self._meet(values, some)

    def _const(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._meet(values, self._value(number, "const", schema["const"]))

    def _value(self, number: int, keyword: str, value: Any) -> Values:
        path = self.path(number)
        try:
            return of_value(value, lambda inner: self.constant(inner, path))
        except ValueError as error:
            raise self.wrong(number, keyword, "JSON values") from error

    # -- numbers ---------------------------------------------------------------------------------------------

    def _numbers(self, values: Values, condition: Numbers) -> Values:
        return self._meet(values, replace(EVERYTHING, numbers=(condition,)))

    def _bound(self, number: int, schema: Mapping[str, Any], values: Values, keyword: str) -> Values:
        opened = f"exclusive{keyword.capitalize()}"
        try:
            bound = decimal(schema[keyword])
        except ValueError as error:
            raise self.wrong(number, keyword, "a number") from error
        is_open = schema.get(opened) is True  # draft 4: a flag beside the bound
        condition = (
            Numbers(low=bound, low_open=is_open)
            if keyword == "minimum"
            else Numbers(high=bound, high_open=is_open)
        )
        return self._numbers(values, condition)

    def _minimum(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._bound(number, schema, values, "minimum")

    def _maximum(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._bound(number, schema, values, "maximum")

    def _exclusive(self, number: int, schema: Mapping[str, Any], values: Values, keyword: str) -> Values:
        if isinstance(schema[keyword], bool):
            return values  # read together with the bound beside it
        try:
            bound = decimal(schema[keyword])
        except ValueError as error:
            raise self.wrong(number, keyword, "a number") from error
        low = keyword == "exclusiveMinimum"
        return self._numbers(
            values, Numbers(low=bound, low_open=True) if low else Numbers(high=bound, high_open=True)
        )

    def _exclusive_minimum(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._exclusive(number, schema, values, "exclusiveMinimum")

    def _exclusive_maximum(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._exclusive(number, schema, values, "exclusiveMaximum")

    def _multiple_of(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        try:
            divisor = decimal(schema["multipleOf"]).normalize()
        except ValueError as error:
            raise self.wrong(number, "multipleOf", "a number") from error
        if divisor <= 0:
            raise self.wrong(number, "multipleOf", "greater than 0")
        return self._numbers(
            values, Numbers(True) if divisor == 1 else Numbers(multiples=frozenset((divisor,)))
        )

    # -- strings ---------------------------------------------------------------------------------------------

    def _strings(self, values: Values, condition: Strings) -> Values:
        return self._meet(values, replace(EVERYTHING, strings=(condition,)))

    def _min_length(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._strings(values, Strings(low=self.count(number, schema, "minLength")))

    def _max_length(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._strings(values, Strings(high=self.count(number, schema, "maxLength")))

    def _pattern(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        pattern = self._patterns.check(schema["pattern"], "pattern", self.path(number))
        return self._strings(values, Strings(patterns=frozenset(((pattern, True),))))

    def _format(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        if not isinstance(schema["format"], str):
            raise self.wrong(number, "format", "a string")
        if schema["format"] not in FORMATS:
            return values  # an annotation
        return self._strings(values, Strings(formats=frozenset(((schema["format"], True),))))

    # -- arrays ----------------------------------------------------------------------------------------------

    def _arrays(self, values: Values, condition: Arrays) -> Values:
        if not self.document.unevaluated:
            condition = replace(condition, evaluated=0)
        return self._meet(values, replace(EVERYTHING, arrays=(condition,)))

    def _prefix(self, number: int, schema: Mapping[str, Any], keyword: str) -> tuple[Term, ...]:
        if not isinstance(schema[keyword], list):
            raise self.wrong(number, keyword, "a list of schemas")
        return tuple(
            self.term(self.document.at(number, f"{keyword}/{i}")) for i in range(len(schema[keyword]))
        )

    def _prefix_items(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        prefix = self._prefix(number, schema, "prefixItems")
        return self._arrays(values, Arrays(prefix, evaluated=len(prefix)))

    def _items(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        if isinstance(schema["items"], list):  # the older spelling of prefixItems
            prefix = self._prefix(number, schema, "items")
            if "additionalItems" not in schema:
                return self._arrays(values, Arrays(prefix, evaluated=len(prefix)))
            rest = self.term(self.document.at(number, "additionalItems"))
            return self._arrays(values, Arrays(prefix, rest, evaluated=None))
        rest = self.term(self.document.at(number, "items"))
        length = len(schema["prefixItems"]) if "prefixItems" in schema else 0
        return self._arrays(values, Arrays((ANYTHING,) * length, rest, evaluated=None))

    def _min_items(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._arrays(values, Arrays(low=self.count(number, schema, "minItems")))

    def _max_items(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._arrays(values, Arrays(high=self.count(number, schema, "maxItems")))

    def _contains(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        low = self.count(number, schema, "minContains") if "minContains" in schema else 1
        high = self.count(number, schema, "maxContains") if "maxContains" in schema else None
        term = self.term(self.document.at(number, "contains"))
        return self._arrays(values, Arrays(contains=frozenset((Contains(term, low, high),))))

    def _unique(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        if not isinstance(schema["uniqueItems"], bool):
            raise self.wrong(number, "uniqueItems", "a boolean")
        return self._arrays(values, Arrays(unique=True)) if schema["uniqueItems"] else values

    def _unevaluated_items(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        rest = self.term(self.document.at(number, "unevaluatedItems"))
        if any(array.contains for array in values.arrays):
            raise self.unsupported(
                number, "unevaluatedItems", "beside contains, which items count depends on the value"
            )
        arrays = [
            array
            if array.evaluated is None
            else array.meet(Arrays((ANYTHING,) * array.evaluated, rest, evaluated=None))
            for array in values.arrays
        ]
        return replace(values, arrays=tuple(dict.fromkeys(array for array in arrays if array is not None)))

    # -- objects ---------------------------------------------------------------------------------------------

    def _objects(self, values: Values, condition: Objects) -> Values:
        if not self.document.unevaluated:
            condition = replace(condition, seen=frozenset(), seen_patterns=frozenset(), seen_all=False)
        return self._meet(values, replace(EVERYTHING, objects=(condition,)))

    def _properties(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        """properties, patternProperties and additionalProperties, which depend on each other."""
        own = self.mapping(number, schema, "properties") if "properties" in schema else {}
        by_pattern = (
            self.mapping(number, schema, "patternProperties") if "patternProperties" in schema else {}
        )
        path = self.path(number)
        patterns = tuple(
            (
                self._patterns.check(pattern, "patternProperties", path),
                self.term(self.document.named(number, "patternProperties", pattern)),
            )
            for pattern in by_pattern
        )
        named: list[tuple[str, Term]] = []
        for key in own:
            term = self.term(self.document.named(number, "properties", key))
            matching = (wanted for pattern, wanted in patterns if self._patterns.matches(pattern, key))
            named.append((key, reduce(meet, matching, term)))
        closed = "additionalProperties" in schema
        fallback = self.term(self.document.at(number, "additionalProperties")) if closed else ANYTHING
        layers = (Layer(patterns, fallback),) if patterns or fallback != ANYTHING else ()
        seen, seen_patterns = frozenset(own), frozenset(by_pattern)
        return self._objects(
            values, Objects(tuple(named), layers, seen=seen, seen_patterns=seen_patterns, seen_all=closed)
        )

    def _required(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        if isinstance(schema["required"], bool):
            raise self.unsupported(number, "required", "a boolean (draft 3)")
        return self._objects(
            values, Objects(required=frozenset(self.names(number, "required", schema["required"])))
        )

    def _min_properties(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._objects(values, Objects(low=self.count(number, schema, "minProperties")))

    def _max_properties(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._objects(values, Objects(high=self.count(number, schema, "maxProperties")))

    def _property_names(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        term = self.term(self.document.at(number, "propertyNames"))
        return self._objects(values, Objects(names=frozenset((term,)))) if term else values

    def _dependent_required(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        for key, needed in self.mapping(number, schema, "dependentRequired").items():
            values = self._meet(
                values, self._if_present(key, self._needs(number, "dependentRequired", needed))
            )
        return values

    def _dependent_schemas(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        for key in self.mapping(number, schema, "dependentSchemas"):
            then = self.in_place(self.document.named(number, "dependentSchemas", key))
            values = self._meet(values, self._if_present(key, then))
        return values

    def _dependencies(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        for key, needed in self.mapping(number, schema, "dependencies").items():
            if isinstance(needed, Mapping | bool):
                then = self.in_place(self.document.named(number, "dependencies", key))
            else:
                then = self._needs(number, "dependencies", [needed] if isinstance(needed, str) else needed)
            values = self._meet(values, self._if_present(key, then))
        return values

    def _needs(self, number: int, keyword: str, needed: Any) -> Values:
        return replace(
            EVERYTHING, objects=(Objects(required=frozenset(self.names(number, keyword, needed))),)
        )

    def _if_present(self, key: str, then: Values) -> Values:
        """Objects without `key`, objects with it that are in `then`, and everything that is no object."""
        present = replace(NOTHING, objects=(Objects(required=frozenset((key,))),))
        absent = replace(EVERYTHING, objects=(Objects(named=((key, NEVER),)),))
        return absent.union(self._meet(present, then))

    def _unevaluated_properties(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        rest = self.term(self.document.at(number, "unevaluatedProperties"))
        objects = []
        for o in values.objects:
            if not o.seen_all:
                patterns = tuple((pattern, ANYTHING) for pattern in sorted(o.seen_patterns))
                named = tuple((key, ANYTHING) for key in sorted(o.seen))
                joined = o.join(
                    Objects(named, (Layer(patterns, rest),), seen_all=True), self._patterns.matches
                )
                if joined is None:
                    continue
                o = joined
            objects.append(o)
        return replace(values, objects=tuple(dict.fromkeys(objects)))

    # -- combinations ----------------------------------------------------------------------------------------

    def _all_of(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        for branch in self.subschemas(number, schema, "allOf"):
            values = self._meet(values, self.in_place(branch))
        return values

    def _any_of(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        branches = [self.in_place(branch) for branch in self.subschemas(number, schema, "anyOf")]
        some = reduce(Values.union, branches)
        if self.document.unevaluated:  # a value in several branches was looked at by all of them
            for size in range(2, len(branches) + 1):
                for chosen in combinations(branches, size):
                    some = some.union(reduce(self._meet, chosen))
        return self._meet(values, some)

    def _one_of(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        terms = [self.term(branch) for branch in self.subschemas(number, schema, "oneOf")]
        overlap = [
            (i, j)
            for i, j in combinations(range(len(terms)), 2)
            if not self._apart(values, terms[i], terms[j])
        ]
        one = NOTHING
        for i, term in enumerate(terms):
            alone = self.values(term)
            for j in (a + b - i for a, b in overlap if i in (a, b)):
                try:
                    alone = self._meet(alone, self._not(terms[j], number, "oneOf"))
                except UnsupportedSchema as refusal:
                    if not self.lenient:
                        raise
                    self.warn(refusal)  # a value may then satisfy several branches
            one = one.union(alone)
        return self._meet(values, one)

    def _apart(self, values: Values, left: Term, right: Term) -> bool:
        if self.is_empty(meet(left, right)):
            return True
        common = self._meet(values, self._meet(self.values(left), self.values(right)))
        return common == NOTHING or self._is_empty(common, 3)

    def _not(self, term: Term, number: int, keyword: str) -> Values:
        """Everything that `term` does not allow."""
        if term == NEVER:
            return EVERYTHING
        try:
            return self.values(term).complement(self._patterns.matches).forget_evaluated()
        except NoComplement as error:
            reason = f"needs the opposite of {error.keyword!r}, which cannot be enforced exactly"
            raise self.unsupported(number, keyword, reason) from error

    def _not_keyword(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        return self._meet(values, self._not(self.term(self.document.at(number, "not")), number, "not"))

    def _if(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        if "then" not in schema and "else" not in schema and not self.document.unevaluated:
            return values
        condition = self.term(self.document.at(number, "if"))
        yes, no = self.values(condition), self._not(condition, number, "if")
        if "then" in schema:
            yes = self._meet(yes, self.in_place(self.document.at(number, "then")))
        if "else" in schema:
            no = self._meet(no, self.in_place(self.document.at(number, "else")))
        return self._meet(values, yes.union(no))

    def _refuse(self, number: int, schema: Mapping[str, Any], values: Values) -> Values:
        keyword = next(keyword for keyword in _REFUSED if keyword in schema)
        raise self.unsupported(number, keyword, "a keyword of a draft that is not supported")


_Read = Callable[[Reader, int, Mapping[str, Any], Values], Values]

# In the order in which they are read: unevaluated* last, after everything that looks at items and properties.
_READERS: Final[dict[str, _Read]] = {
    "$ref": Reader._ref,
    "$dynamicRef": Reader._ref,
    "type": Reader._type,
    "const": Reader._const,
    "enum": Reader._enum,
    "minimum": Reader._minimum,
    "maximum": Reader._maximum,
    "exclusiveMinimum": Reader._exclusive_minimum,
    "exclusiveMaximum": Reader._exclusive_maximum,
    "multipleOf": Reader._multiple_of,
    "minLength": Reader._min_length,
    "maxLength": Reader._max_length,
    "pattern": Reader._pattern,
    "format": Reader._format,
    "prefixItems": Reader._prefix_items,
    "items": Reader._items,
    "minItems": Reader._min_items,
    "maxItems": Reader._max_items,
    "contains": Reader._contains,
    "uniqueItems": Reader._unique,
    "properties": Reader._properties,
    "patternProperties": Reader._properties,
    "additionalProperties": Reader._properties,
    "required": Reader._required,
    "minProperties": Reader._min_properties,
    "maxProperties": Reader._max_properties,
    "propertyNames": Reader._property_names,
    "dependentRequired": Reader._dependent_required,
    "dependentSchemas": Reader._dependent_schemas,
    "dependencies": Reader._dependencies,
    "allOf": Reader._all_of,
    "anyOf": Reader._any_of,
    "oneOf": Reader._one_of,
    "not": Reader._not_keyword,
    "if": Reader._if,
    **dict.fromkeys(_REFUSED, Reader._refuse),
    "unevaluatedItems": Reader._unevaluated_items,
    "unevaluatedProperties": Reader._unevaluated_properties,
}

_ORDER: Final = {keyword: place for place, keyword in enumerate(_READERS)}

# Read together with the keyword named.
_TOGETHER: Final = {
    "additionalItems": "items",
    "minContains": "contains",
    "maxContains": "contains",
    "then": "if",
    "else": "if",
}


def keyword_table() -> str:
    """Every keyword of JSON Schema and what becomes of it, in Markdown."""
    groups = {
        "enforced exactly": [k for k in _READERS if k not in _REFUSED],
        "enforced exactly, together with the keyword named": [
            f"{k}` (`{leader}`)" for k, leader in _TOGETHER.items()
        ],
        "`format`: enforced": list(FORMATS),
        "says nothing about values": list(_ANNOTATIONS),
        "refused": list(_REFUSED),
    }
    rows = ["| what becomes of it | keywords |", "| --- | --- |"]
    for what, names in groups.items():
        cells = ", ".join(f"`{name}" if name.endswith(")") else f"`{name}`" for name in names)
        rows.append(f"| {what} | {cells} |")
    return "\n".join(rows)
