# SPDX-License-Identifier: Apache-2.0
"""Structural tags, as vLLM, SGLang and xgrammar take them, rewritten as a grammar in Lark's notation.

Free text with tags in it is a right-linear grammar: one rule for each state of the Aho-Corasick automaton of
the strings to look for ("Efficient string matching", 1975), which begins a tag, ends a text or is a dead end
where such a string is complete. Schemas go into the grammar as `%json`. Knows nothing of how grammars are
compiled; formats that speak of tokens, not of text, are refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sgl_constrain.errors import InvalidSchema, UnsupportedSchema

_LINE_OR_SLASH = re.compile(r"\\[\s\S]|/|\n")
_FIELDS = {
    "const_string": {"value"},
    "json_schema": {"json_schema", "style", "any_order", "max_whitespace_cnt", "excludes"},
    "regex": {"pattern"},
    "any_text": {"excludes", "max_tokens", "max_chars"},
    "sequence": {"elements"},
    "or": {"elements"},
    "tag": {"begin", "content", "end"},
    "triggered_tags": {"triggers", "tags", "at_least_one", "stop_after_first", "excludes"},
    "tags_with_separator": {"tags", "separator", "at_least_one", "stop_after_first"},
    "optional": {"content"},
    "plus": {"content"},
    "star": {"content"},
    "repeat": {"content", "min", "max"},
}
# Fields that are supported with this one value, which is what they are when they are left out.
_ONLY = {
    "style": "json",
    "any_order": False,
    "max_whitespace_cnt": None,
    "max_tokens": None,
    "max_chars": None,
}
_DEEPEST = 120  # slashes in the path of a format
_SIGNS = {"optional": "?", "plus": "+", "star": "*"}


def structural_tag(source: str | Mapping[str, Any], *, compact: bool = False) -> str:
    """The grammar, for `Compiler.lark`, of the texts that a structural tag allows.

    source: JSON text or a mapping, either `{"structures": [{"begin", "schema", "end"}], "triggers": [...]}`
    or `{"type": "structural_tag", "format": {...}}`. compact: no blanks in what its JSON schemas allow.
    Raises InvalidSchema, UnsupportedSchema, with the path of what is wrong in the structural tag.
    """
    try:
        tag = json.loads(source) if isinstance(source, str) else source
    except (ValueError, RecursionError) as error:
        raise InvalidSchema(f"a structural tag is JSON: {error}", path="") from error
    writer = _Writer(compact=compact)
    if isinstance(tag, Mapping) and "structures" in tag:
        _check_fields(tag, {"type", "structures", "triggers"}, "")
        tags = [writer.structure(s, f"/structures/{i}") for i, s in enumerate(_list(tag, "structures", ""))]
        start = writer.triggered({"triggers": tag.get("triggers"), "tags": tags}, "")
    elif isinstance(tag, Mapping) and "format" in tag:
        _check_fields(tag, {"type", "format"}, "")
        start = writer.format(tag["format"], "/format")
    else:
        raise InvalidSchema("a structural tag has a `format`, or `structures` and `triggers`", path="")
    return "\n".join([f"start: {start}", *writer.rules])


class _Writer:
    """Collects rules; each method returns the expression of one format, in parentheses where needed."""

    def __init__(self, *, compact: bool) -> None:
        self.rules: list[str] = []
        self._compact = compact
        self._states = 0

    def structure(self, structure: object, path: str) -> Mapping[str, Any]:
        """A tag in the older spelling, in the newer one."""
        found = _mapping(structure, path)
        _check_fields(found, {"begin", "schema", "end"}, path)
        content = {"type": "json_schema", "json_schema": found.get("schema") or {}}
        return {"type": "tag", "begin": found.get("begin"), "content": content, "end": found.get("end")}

    def format(self, node: object, path: str, ends: Sequence[str] = ()) -> str:
        """ends: strings one of which is read last; free text that comes before them does not contain them."""
        node = _mapping(node, path)
        if path.count("/") > _DEEPEST:
            raise InvalidSchema("formats are nested too deeply", path=path[:80])
        kind = node.get("type")
        if kind not in _FIELDS:
            known = ", ".join(sorted(_FIELDS))
            raise UnsupportedSchema(
                f"this format is not supported, but {known}", keyword=str(kind), path=path
            )
        _check_fields(node, _FIELDS[kind] | {"type"}, path)
        for field, only in _ONLY.items():
            if node.get(field, only) != only:
                raise UnsupportedSchema(f"only {only!r} is supported", keyword=field, path=path)
        match kind:
            case "any_text":
                return self._free(dict.fromkeys(ends, ""), _strings(node, "excludes", path), may_end=not ends)
            case "sequence":
                return self._sequence(_list(node, "elements", path), path, ends)
            case "or":
                elements = _list(node, "elements", path)
                return _either(self.format(e, f"{path}/elements/{i}", ends) for i, e in enumerate(elements))
            case _:
                return _then(self._closed(kind, node, path), _either(map(_literal, ends)) if ends else "")

    def _sequence(self, elements: Sequence[object], path: str, ends: Sequence[str]) -> str:
        if not elements:
            return _either(map(_literal, ends)) if ends else '""'
        last = len(elements) - 1
        return _then(
            *(
                self.format(e, f"{path}/elements/{i}", ends if i == last else ())
                for i, e in enumerate(elements)
            )
        )

    def _closed(self, kind: str, node: Mapping[str, Any], path: str) -> str:
        """The formats that end by themselves."""
        match kind:
            case "const_string":
                return _literal(_string(node, "value", path))
            case "json_schema":
                return self._json(node, path)
            case "regex":
                return _regex(_string(node, "pattern", path))
            case "tag":
                return _then(_literal(_string(node, "begin", path)), self._rest_of_tag(node, path))
            case "triggered_tags":
                return self.triggered(node, path)
            case "tags_with_separator":
                return self._separated(node, path)
            case "repeat":
                return self._repeat(node, path)
            case _:
                return f"({self.format(node.get('content'), f'{path}/content')}){_SIGNS[kind]}"

    def _rest_of_tag(self, tag: Mapping[str, Any], path: str) -> str:
        ends = [tag["end"]] if isinstance(tag.get("end"), str) else _strings(tag, "end", path)
        if not ends:
            raise InvalidSchema("`end` must be a string, or a list of them", path=path)
        ends = [] if ends == [""] else ends
        return self.format(tag.get("content"), f"{path}/content", ends)

    def _tags(self, node: Mapping[str, Any], path: str) -> list[tuple[str, str]]:
        """(begin, expression of the rest) of each tag; each rest is one rule, so that it is written once."""
        found = []
        for i, tag in enumerate(_list(node, "tags", path)):
            where = f"{path}/tags/{i}"
            tag = _mapping(tag, where)
            _check_fields(tag, _FIELDS["tag"] | {"type"}, where)
            found.append((_string(tag, "begin", where), self._rule(self._rest_of_tag(tag, where))))
        if not found:
            raise InvalidSchema("`tags` must not be empty", path=path)
        return found

    def triggered(self, node: Mapping[str, Any], path: str) -> str:
        """Free text in which a trigger is always the beginning of one of the tags."""
        triggers = _strings(node, "triggers", path)
        tags = self._tags(node, path)
        for begin, _ in tags:
            if not any(begin.startswith(trigger) for trigger in triggers):
                raise InvalidSchema(f"no trigger is the beginning of {begin!r}", path=path)
        first = _either(_then(_literal(begin), rest) for begin, rest in tags)
        if node.get("at_least_one") and node.get("stop_after_first"):
            return first
        after = {
            trigger: _either(
                _then(_literal(begin[len(trigger) :]), rest)
                for begin, rest in tags
                if begin.startswith(trigger)
            )
            for trigger in triggers
        }
        excludes = _strings(node, "excludes", path)
        text = self._free(after, excludes, may_end=True, again=not node.get("stop_after_first"))
        return _then(first, text) if node.get("at_least_one") else text

    def _separated(self, node: Mapping[str, Any], path: str) -> str:
        one = self._rule(_either(_then(_literal(begin), rest) for begin, rest in self._tags(node, path)))
        separator = _literal(_string(node, "separator", path))
        many = one if node.get("stop_after_first") else f"({one} ({separator} {one})*)"
        return many if node.get("at_least_one") else f"[{many}]"

    def _repeat(self, node: Mapping[str, Any], path: str) -> str:
        least, most = node.get("min"), node.get("max")
        if type(least) is not int or type(most) is not int or least < 0 or (most < least and most != -1):
            raise InvalidSchema("`min` and `max` must be counts, min <= max, or max -1 for no end", path=path)
        upper = "" if most == -1 else most
        return f"({self.format(node.get('content'), f'{path}/content')}){{{least},{upper}}}"

    def _json(self, node: Mapping[str, Any], path: str) -> str:
        if _strings(node, "excludes", path):
            raise UnsupportedSchema("nothing can be excluded from JSON", keyword="excludes", path=path)
        schema = node.get("json_schema")
        if not isinstance(schema, Mapping | bool):
            raise InvalidSchema("`json_schema` must be a mapping or a boolean", path=path)
        if self._compact:
            schema = schema if isinstance(schema, Mapping) else {} if schema else {"not": {}}
            schema = {"x-guidance": {"whitespace_flexible": False}, **schema}
        return self._rule(f"%json {json.dumps(schema)}")

    def _rule(self, body: str) -> str:
        self._states += 1
        self.rules.append(f"r{self._states}: {body}")
        return f"r{self._states}"

    def _free(
        self, found: Mapping[str, str], excluded: Sequence[str], *, may_end: bool, again: bool = False
    ) -> str:
        """Any text up to the first of the strings `found`, that string, and then what it is mapped to.

        The text contains none of `excluded`. may_end: it may also end without. again: after that, once more.
        """
        strings = [*found, *excluded]
        if "" in strings:
            raise InvalidSchema("a string to look for must not be empty", path="")
        prefixes = sorted({string[:i] for string in strings for i in range(len(string))} | {""})
        self._states += 1
        name = {prefix: f"t{self._states}_{i}" for i, prefix in enumerate(prefixes)}
        alphabet = sorted(set("".join(strings)))
        others = f"/[^{''.join(map(_escaped, alphabet))}]/" if alphabet else r"/[\s\S]/"
        for prefix in prefixes:
            options = [f"{others} {name['']}"]
            for character in alphabet:
                text = prefix + character
                if any(text.endswith(string) for string in excluded):
                    continue
                done = [follow for string, follow in found.items() if text.endswith(string)]
                known = next(text[i:] for i in range(len(text) + 1) if text[i:] in name)
                follow = _then(_either(done), name[""] if again else "") if done else name[known]
                options.append(f"{_literal(character)} {follow}")
            self.rules.append(f"{name[prefix]}: {' | '.join(options + [''] * may_end)}")
        return name[""]


# -- pieces of Lark's notation ------------------------------------------------------------------------------


def _escaped(text: str) -> str:
    return "".join(f"\\U{ord(character):08x}" for character in text)


def _literal(text: str) -> str:
    return f'"{_escaped(text)}"' if text else ""


def _regex(pattern: str) -> str:
    written = {"/": "\\/", "\n": "\\n", "\\\n": "\\n"}
    return f"/{_LINE_OR_SLASH.sub(lambda part: written.get(part[0], part[0]), pattern)}/" if pattern else ""


def _then(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _either(options: Iterable[str]) -> str:
    return f"({' | '.join(options)})"


# -- reading ------------------------------------------------------------------------------------------------


def _check_fields(node: Mapping[str, Any], known: set[str], path: str) -> None:
    for field in node:
        if field not in known:
            raise UnsupportedSchema("this field is not supported here", keyword=field, path=path)


def _mapping(value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidSchema("this must be a mapping", path=path)
    return value


def _list(node: Mapping[str, Any], field: str, path: str) -> Sequence[object]:
    value = node.get(field)
    if not isinstance(value, list | tuple):
        raise InvalidSchema(f"`{field}` must be a list", path=path)
    return value


def _string(node: Mapping[str, Any], field: str, path: str) -> str:
    value = node.get(field)
    if not isinstance(value, str):
        raise InvalidSchema(f"`{field}` must be a string", path=path)
    return value


def _strings(node: Mapping[str, Any], field: str, path: str) -> list[str]:
    value = node.get(field, ())
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InvalidSchema(f"`{field}` must be a list of strings", path=path)
    return list(value)
