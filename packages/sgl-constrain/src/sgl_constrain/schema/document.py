# SPDX-License-Identifier: Apache-2.0
"""A schema as numbered subschemas: where each stands, and what references point to.

References are resolved by JSON pointer, `$anchor` and `$id` within the document; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from sgl_constrain.errors import GrammarTooLarge, InvalidSchema, UnsupportedSchema
from sgl_constrain.limits import Limits

# Where subschemas stand in a schema: alone, in a list, or as the values of an object.
_ONE = (
    *("additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not"),
    *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
)
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")


def children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The subschemas one level down, each with its pointer from here."""
    for keyword in _ONE:
        if isinstance(schema.get(keyword), Mapping | bool):
            yield keyword, schema[keyword]
    for keyword in _MANY:
        if isinstance(schema.get(keyword), list):
            yield from ((f"{keyword}/{i}", value) for i, value in enumerate(schema[keyword]))
    for keyword in _NAMED:
        if isinstance(schema.get(keyword), Mapping):
            for name, value in schema[keyword].items():
                if isinstance(value, Mapping | bool):
                    yield f"{keyword}/{_token(name)}", value


def _token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _join(base: str, reference: str) -> str:
    """`urljoin`, which for bases it cannot take apart (`urn:`) forgets them even beside a mere fragment."""
    return base + reference if reference.startswith("#") else urljoin(base, reference)


class Document:
    """`schemas[n]` is subschema n, `paths[n]` its JSON pointer. Number 0 is the schema that allows
    nothing.
    """

    def __init__(self, root: Any, limits: Limits) -> None:
        self.schemas: list[Any] = [False]
        self.paths: list[str] = [""]
        self._bases: list[str] = [""]
        self._number_of: dict[str, int] = {}
        self._resources: dict[str, str] = {"": ""}  # URI -> pointer
        self._anchors: dict[tuple[str, str], str] = {}  # (URI, name) -> pointer
        self._root = root
        self._limits = limits
        self._dynamic: dict[str, int] = {}
        draft = root.get("$schema") if isinstance(root, Mapping) else None
        self.old = isinstance(draft, str) and any(f"draft-0{n}" in draft for n in (3, 4, 5, 6, 7))
        self.unevaluated = False  # does some keyword ask what others looked at?
        self._survey(root, "", "", 0)

    def _survey(self, schema: Any, path: str, base: str, depth: int) -> None:
        """Number every subschema, and note the names by which references call them."""
        if depth > self._limits.nesting:
            raise GrammarTooLarge(f"subschemas nested deeper than {self._limits.nesting}", limit="nesting")
        if isinstance(schema, Mapping):
            name = schema.get("$id", schema.get("id") if self.old else None)
            if isinstance(name, str) and not (self.old and "$ref" in schema):
                uri, fragment = urldefrag(_join(base, name))
                if fragment:
                    self._anchors[uri, fragment] = path
                else:
                    base = uri
                    self._resources[base] = path
            for keyword in ("$anchor", "$dynamicAnchor"):
                if isinstance(schema.get(keyword), str):
                    self._anchors[base, schema[keyword]] = path
            if isinstance(schema.get("$dynamicAnchor"), str):
                anchor = schema["$dynamicAnchor"]
                self._dynamic[anchor] = self._dynamic.get(anchor, 0) + 1
            self.unevaluated |= "unevaluatedItems" in schema or "unevaluatedProperties" in schema
        self._add(schema, path, base)
        if isinstance(schema, Mapping):
            for step, child in children(schema):
                self._survey(child, f"{path}/{step}", base, depth + 1)

    def _add(self, schema: Any, path: str, base: str) -> int:
        self.schemas.append(schema)
        self.paths.append(path)
        self._bases.append(base)
        self._number_of[path] = len(self.schemas) - 1
        return len(self.schemas) - 1

    @property
    def root(self) -> int:
        return 1

    def at(self, parent: int, step: str) -> int:
        """The subschema of `parent` at the pointer `step`."""
        path = f"{self.paths[parent]}/{step}"
        known = self._number_of.get(path)
        if known is None:
            raise InvalidSchema(f"not a schema: {step!r} must be an object or a boolean", path=path)
        return known

    def named(self, parent: int, keyword: str, name: str) -> int:
        return self.at(parent, f"{keyword}/{_token(name)}")

    def constant(self, value: Any, path: str) -> int:
        """A new subschema that allows `value` only."""
        self.schemas.append({"const": value})
        self.paths.append(path)
        self._bases.append("")
        return len(self.schemas) - 1

    def resolve(self, number: int, keyword: str) -> int:
        """The subschema that a reference of subschema `number` points to."""
        reference, path = self.schemas[number][keyword], self.paths[number]
        if not isinstance(reference, str):
            raise InvalidSchema(f"{keyword} must be a string", path=path)
        uri, fragment = urldefrag(_join(self._bases[number], reference))
        if keyword == "$dynamicRef" and self._dynamic.get(fragment, 0) > 1:
            message = f"{reference!r} has several targets, chosen while validating"
            raise UnsupportedSchema(message, keyword=keyword, path=path)
        if (uri, fragment) in self._anchors:
            return self._number_of[self._anchors[uri, fragment]]
        if uri not in self._resources:
            raise UnsupportedSchema(f"{reference!r} points outside of the schema", keyword=keyword, path=path)
        if fragment and not fragment.startswith("/"):
            raise InvalidSchema(f"{keyword} {reference!r} points to nothing", path=path)
        return self._lookup(self._resources[uri] + unquote(fragment), uri, f"{keyword} {reference!r}", path)

    def _lookup(self, pointer: str, base: str, reference: str, path: str) -> int:
        known = self._number_of.get(pointer)
        if known is not None:
            return known
        value = self._root
        for token in pointer.split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, Mapping) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                raise InvalidSchema(f"{reference} points to nothing", path=path)
        first = len(self.schemas)
        self._survey(value, pointer, base, 0)
        return first
