# SPDX-License-Identifier: Apache-2.0
"""A schema as numbered subschemas: where each stands, and what references point to.

References are resolved by JSON pointer, `$anchor` and `$id` within the document, and in
the documents given beside it by their URI; nothing is fetched. What a
`$dynamicRef` points to depends on the resources through which validation came, the dynamic scope. So where
that matters, a subschema has a number for each scope in which it is met: for each binding of anchors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from sgl_constrain.errors import GrammarTooLarge, InvalidSchema, UnsupportedSchema
from sgl_constrain.limits import Limits

# Where subschemas stand in a schema: alone, in a list, or as the values of an object. They are numbered in
# this order. Where several hold for one object, its keys come in the order of the first of them: so what
# describes stands before what picks out (`contains`, `if`, `not`).
_PLACES = (
    *("properties", "patternProperties", "additionalProperties", "prefixItems", "items", "additionalItems"),
    *("allOf", "anyOf", "oneOf", "$defs", "definitions", "dependentSchemas", "dependencies", "then", "else"),
    *("contains", "propertyNames", "if", "not", "unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_ORDER = {keyword: place for place, keyword in enumerate(_PLACES)}
_NAMES = frozenset(("$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"))
_LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems", "items"))
_NAMED = frozenset(
    ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")
)


def children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The subschemas one level down, each with its pointer from here."""
    if _ORDER.keys().isdisjoint(schema):
        return
    for keyword in sorted(_ORDER.keys() & schema.keys(), key=_ORDER.__getitem__):
        found = schema[keyword]
        if keyword in _NAMED:
            if isinstance(found, dict):
                for name, value in found.items():
                    if isinstance(value, dict | bool):
                        yield f"{keyword}/{_token(name)}", value
        elif isinstance(found, list):
            if keyword in _LISTS:
                yield from ((f"{keyword}/{i}", value) for i, value in enumerate(found))
        elif isinstance(found, dict | bool):
            yield keyword, found


def _token(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _join(base: str, reference: str, path: str) -> tuple[str, str]:
    """The URI and the fragment that a reference at `path` means. `urljoin` forgets bases that it cannot take
    apart (`urn:`) even beside a mere fragment.
    """
    try:
        return urldefrag(base + reference if reference.startswith("#") else urljoin(base, reference))
    except ValueError as error:
        raise InvalidSchema(f"{reference!r} is not a URI: {error}", path=path) from error


# Names of dynamic anchors and the subschemas they are bound to, those of the outermost resource first.
Scope = tuple[tuple[str, int], ...]
_RECURSIVE = "$recursiveAnchor"  # the name under which draft 2019-09's one dynamic anchor is kept


class Document:
    """`schemas[n]` is subschema n, `paths[n]` its JSON pointer. Number 0 is the schema that allows
    nothing.
    """

    def __init__(self, root: Any, limits: Limits, resources: Mapping[str, Any] | None = None) -> None:
        self.schemas: list[Any] = [False]
        self.paths: list[str] = [""]
        self._bases: list[str] = [""]
        self._number_of: dict[str, int] = {}
        self._resources: dict[str, str] = {"": ""}  # URI -> pointer
        self._anchors: dict[tuple[str, str], str] = {}  # (URI, name) -> pointer
        self._roots = {"": root}  # prefix of the paths in a document -> the document
        self._given = dict(resources or {})
        self.limits = limits
        self._dynamic: dict[str, dict[str, str]] = {}  # URI -> name -> pointer
        self._scopes: dict[int, Scope] = {}
        self._in_scope: dict[tuple[int, Scope], int] = {}
        draft = root.get("$schema") if isinstance(root, dict) else None
        self.old = isinstance(draft, str) and any(f"draft-0{n}" in draft for n in (3, 4, 5, 6, 7))
        # Does `unevaluatedItems` see what `contains` looked at?
        self.contains_counts = not self.old and not (isinstance(draft, str) and "2019-09" in draft)
        self.unevaluated = False  # does some keyword ask what others looked at?
        self._survey(root, "", "", 0)
        # With one resource that has dynamic anchors, each of them has one target whatever the scope.
        self._scoped = len(self._dynamic) > 1 or bool(resources)
        self.root = self._enter(1, ())

    def _survey(self, schema: Any, path: str, base: str, depth: int) -> None:
        """Number every subschema, and note the names by which references call them."""
        if depth > self.limits.nesting:
            raise GrammarTooLarge(f"subschemas nested deeper than {self.limits.nesting}", limit="nesting")
        if not isinstance(schema, dict):
            self._add(schema, path, base)
            return
        if not _NAMES.isdisjoint(schema):
            base = self._note(schema, path, base)
        self.unevaluated |= "unevaluatedItems" in schema or "unevaluatedProperties" in schema
        self._add(schema, path, base)
        for step, child in children(schema):
            self._survey(child, f"{path}/{step}", base, depth + 1)

    def _note(self, schema: Mapping[str, Any], path: str, base: str) -> str:
        """Take down the names of a subschema; the URI from which it and those inside are reckoned."""
        name = schema.get("$id", schema.get("id") if self.old else None)
        if isinstance(name, str) and not (self.old and "$ref" in schema):
            uri, fragment = _join(base, name, path)
            if fragment:
                self._anchors[uri, fragment] = path
            else:
                base = uri
                self._resources[base] = path
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(schema.get(keyword), str):
                self._anchors[base, schema[keyword]] = path
        if isinstance(schema.get("$dynamicAnchor"), str):
            self._dynamic.setdefault(base, {})[schema["$dynamicAnchor"]] = path
        if schema.get("$recursiveAnchor") is True and self._resources.get(base) == path:
            self._dynamic.setdefault(base, {})[_RECURSIVE] = path
        return base

    def _add(self, schema: Any, path: str, base: str) -> int:
        self.schemas.append(schema)
        self.paths.append(path)
        self._bases.append(base)
        self._number_of[path] = len(self.schemas) - 1
        return len(self.schemas) - 1

    def at(self, parent: int, step: str) -> int:
        """The subschema of `parent` at the pointer `step`."""
        path = f"{self.paths[parent]}/{step}"
        known = self._number_of.get(path)
        if known is None:
            raise InvalidSchema(f"not a schema: {step!r} must be an object or a boolean", path=path)
        return self._enter(known, self._scopes.get(parent, ()))

    def _enter(self, number: int, scope: Scope) -> int:
        """A subschema as it is met in a scope, which its own resource becomes a part of."""
        if not self._scoped:
            return number
        bound = dict(scope)
        for name, path in self._dynamic.get(self._bases[number], {}).items():
            bound.setdefault(name, self._number_of[path])
        entered = tuple(bound.items())
        if not entered:
            return number
        known = self._in_scope.get((number, entered))
        if known is None:
            known = self._in_scope[number, entered] = self._append(number)
            self._scopes[known] = entered
        return known

    def _append(self, number: int) -> int:
        for column in (self.schemas, self.paths, self._bases):
            column.append(column[number])
        return len(self.schemas) - 1

    def named(self, parent: int, keyword: str, name: str) -> int:
        return self.at(parent, f"{keyword}/{_token(name)}")

    def added(self, schema: Mapping[str, Any], path: str) -> int:
        """A new subschema, made of what stands at `path`."""
        self.schemas.append(schema)
        self.paths.append(path)
        self._bases.append("")
        return len(self.schemas) - 1

    def resolve(self, number: int, keyword: str) -> int:
        """The subschema that a reference of subschema `number` points to, as it is met from there."""
        scope = self._scopes.get(number, ())
        target = self._resolve(number, keyword)
        schema = self.schemas[target]
        if isinstance(schema, dict) and keyword != "$ref":
            _, name = urldefrag(self.schemas[number][keyword])
            if keyword == "$dynamicRef" and schema.get("$dynamicAnchor") == name:
                target = dict(scope).get(name, target)
            elif keyword == "$recursiveRef" and schema.get(_RECURSIVE) is True:
                target = dict(scope).get(_RECURSIVE, target)
        return self._enter(target, scope)

    def _resolve(self, number: int, keyword: str) -> int:
        reference, path = self.schemas[number][keyword], self.paths[number]
        if not isinstance(reference, str):
            raise InvalidSchema(f"{keyword} must be a string", path=path)
        uri, fragment = _join(self._bases[number], reference, path)
        if uri not in self._resources:
            self._open(uri)
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
        prefix = next((p for p in self._roots if p and pointer.startswith(p)), "")
        value = self._roots[prefix]
        for token in pointer.removeprefix(prefix).split("/")[1:]:
            name = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                raise InvalidSchema(f"{reference} points to nothing", path=path)
        first = len(self.schemas)
        self._survey(value, pointer, base, 0)
        if len(self._dynamic) > 1 and not self._scoped:
            message = "has several targets, of which some stand where schemas usually do not"
            raise UnsupportedSchema(message, keyword="$dynamicRef", path=path)
        return first

    def _open(self, uri: str) -> None:
        """Take in the document that was given under `uri`, if there is one."""
        given = self._given.pop(uri, self._given.pop(uri + "#", None))
        if given is not None:
            prefix = f"{uri}#"
            self._roots[prefix] = given
            self._resources[uri] = prefix
            self._survey(given, prefix, uri, 0)
