# SPDX-License-Identifier: Apache-2.0
"""Random walks under the masks: every finished text is what jsonschema (or `re`) calls valid, no walk gets
stuck, and every walk can end.

The schemas are those of `schemas/` (tools, OpenAPI, package files, Kubernetes, trees, corners of the
specification) and as many that `invented` makes up. The other way round, values that differ a little from
those walked must be accepted exactly where jsonschema says they are valid. Here each schema is walked a few
times;

    python packages/sgl-constrain/tests/test_schema_walks.py [walks] [first seed]

does 10,000 walks over SmolLM2's vocabulary (about ten minutes), and with another seed other ones.
"""

from __future__ import annotations

import datetime
import json
import random
import re
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Context, Decimal, InvalidOperation, setcontext
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from sgl_constrain import Compiler, ConstrainError, Grammar, Limits, Vocabulary
from sgl_constrain.states import DEAD

FILES = sorted((Path(__file__).parent / "schemas").glob("*.json"))
WRITTEN = [
    (f"{path.stem}/{i}", schema) for path in FILES for i, schema in enumerate(json.loads(path.read_text()))
]
PATTERNS = [
    r"\d{1,3}(\.\d{1,3}){3}", r"[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}", r"(?i)stra(ß|ss)e \d+[a-c]?",
    r"(?=.*\d)(?=.*[a-z])[a-z0-9]{3,8}", r"(?!.*(foo|bar)).{1,20}", r"([^,\n]*,){3}[^,\n]*", "[一-龠]{2,5}。",
    r"(\w+ ){2,4}\w+\.", r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", r"(a|b)*a(a|b){5}", "(é|日|😀){2,9}",
    r"^\s{0,3}(true|false|null)$", r"(x+x+)+y", r"\S+\s\S+", r"(?s:.){3,12}", r"[\W\D]{1,9}", "(a?){9}a{9}",
    r"#[0-9a-fA-F]{6}|rgb\((\d{1,3}, ){2}\d{1,3}\)", r"(?x) \d{4} - \d\d  # a month", r"[^\x00-\x7f]+!",
]  # fmt: skip


# -- schemas made up -----------------------------------------------------------------------------------------


class Inventor:
    """Schemas as people write them, at random: objects of named properties, a few definitions that refer to
    one another, and now and then a keyword that combines or restricts.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._definitions = [f"d{i}" for i in range(self._rng.randint(0, 3))]

    def schema(self) -> Any:
        body = self._object(3) if self._rng.random() < 0.7 else self._any(3)
        if self._definitions:
            body["$defs"] = {name: self._any(2) for name in self._definitions}
        return body

    def _pick(self, *options: Any) -> Any:
        return self._rng.choice(options)

    def _some(self, share: float) -> bool:
        return self._rng.random() < share

    def _name(self) -> str:
        return self._pick(
            *["id", "name", "type", "value", "items", "é", "日付", "a b", 'quo"te', "x-y", "count", "max"]
        )

    def _any(self, depth: int) -> dict[str, Any]:
        if depth == 0:
            return self._pick(self._string, self._integer, self._number, self._constant)()
        if self._definitions and self._some(0.12):
            # An optional place, so that definitions may go round in a circle.
            return {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{self._rng.choice(self._definitions)}"}]}
        kinds = [self._string, self._integer, self._number, self._constant, self._array, self._object]
        kinds += [self._object, self._choice, self._merged, self._conditional]
        kind = self._rng.choice(kinds)
        return kind(depth - 1) if kind in kinds[4:] else kind()  # type: ignore[call-arg]

    def _string(self) -> dict[str, Any]:
        options: list[dict[str, Any]] = [
            {},
            {"minLength": self._rng.randint(0, 3), "maxLength": self._rng.randint(3, 9)},
            {"pattern": self._pattern()},
            {"format": self._pick("date", "uuid", "ipv4", "email", "time", "date-time", "color")},
            {"enum": self._rng.sample(["red", "green", "blue", "", "é", "a\\b", '"'], 3)},
            {"not": {"enum": ["none", "null"]}, "maxLength": 6},
            {
                "pattern": "^" + self._pattern().strip("^$"),
                "not": {"pattern": self._pick("z", "^x", "[0-9]{3}")},
            },
        ]
        return {"type": "string", **self._rng.choice(options)}

    def _pattern(self) -> str:
        part = "".join(
            self._pick(r"\d", "[a-z]", r"\w", "x", "-", "[A-F0-9]", "[^ ]")
            + self._pick("", "+", "{2}", "?", "*", "{1,3}")
            for _ in range(self._rng.randint(1, 3))
        )
        return self._pick("^", "") + part + self._pick("$", "")

    def _integer(self) -> dict[str, Any]:
        low = self._rng.randint(-50, 50)
        options: list[dict[str, Any]] = [
            {},
            {"minimum": low, "maximum": low + self._rng.randint(0, 2000)},
            {"exclusiveMinimum": low},
            {"multipleOf": self._rng.randint(2, 12)},
            {"not": {"const": low}, "minimum": low - 1},
            {"enum": [low, low + 1, low + 10]},
        ]
        return {"type": "integer", **self._rng.choice(options)}

    def _number(self) -> dict[str, Any]:
        low = self._rng.randint(-500, 500) / 100
        options: list[dict[str, Any]] = [
            {}, {"minimum": low}, {"maximum": low}, {"exclusiveMinimum": low, "maximum": low + 1.5},
            {"multipleOf": self._pick(0.5, 0.01, 3, 0.25)},
        ]  # fmt: skip
        return {"type": self._pick("number", ["number", "null"]), **self._rng.choice(options)}

    def _constant(self) -> dict[str, Any]:
        return self._pick(
            {"type": "boolean"},
            {"type": "null"},
            {"const": self._name()},
            {"const": {"k": [1, None]}},
            {"enum": [None, 1, "one", [1], {"a": 1}]},
            {"type": ["boolean", "string", "null"]},
        )

    def _array(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "array"}
        if self._some(0.25):
            found["prefixItems"] = [self._any(depth) for _ in range(self._rng.randint(1, 3))]
        if self._some(0.15):
            return {**found, "items": {"enum": [1, 2, "a", None]}, "uniqueItems": True}
        found["items"] = self._any(depth) if self._some(0.85) else False
        if self._some(0.3):
            found["minItems"] = self._rng.randint(0, 2)
        if self._some(0.3):
            found["maxItems"] = self._rng.randint(2, 5)
        if self._some(0.1):
            found["items"] = {"type": "integer"}
            found["contains"] = {"minimum": self._rng.randint(0, 50)}
            if self._some(0.5):
                found["maxContains"] = 2
        return found

    def _object(self, depth: int) -> dict[str, Any]:
        names = list(dict.fromkeys(self._name() for _ in range(self._rng.randint(0, 5))))
        found: dict[str, Any] = {
            "type": "object",
            "properties": {name: self._any(max(depth - 1, 0)) for name in names},
        }
        if names:
            found["required"] = self._rng.sample(names, self._rng.randint(0, len(names)))
        if self._some(0.6):
            found["additionalProperties"] = self._pick(False, False, {"type": "string"}, {"type": "integer"})
        if self._some(0.1):
            found["patternProperties"] = {self._pick("^x", "y$", "^[a-c]"): self._any(0)}
        if self._some(0.1):
            found["propertyNames"] = {"maxLength": 6}
        if self._some(0.1):
            found["minProperties"] = 1
        if self._some(0.1):
            found["maxProperties"] = max(len(found.get("required", ())), 3)
        if len(names) > 1 and self._some(0.2):
            found["dependentRequired"] = {names[0]: [names[1]]}
        if names and self._some(0.1):
            found["not"] = {"properties": {names[0]: {"type": "null"}}, "required": [names[0]]}
        return found

    def _choice(self, depth: int) -> dict[str, Any]:
        if self._some(0.5):
            return {"anyOf": [self._any(depth) for _ in range(self._rng.randint(2, 3))]}
        branches = []
        for tag in self._rng.sample(["a", "b", "c", "d"], self._rng.randint(2, 3)):
            branch = self._object(depth)
            branch["properties"]["tag"] = {"const": tag}
            branch["required"] = ["tag", *branch.get("required", ())]
            branches.append(branch)
        return {"oneOf": branches}

    def _merged(self, depth: int) -> dict[str, Any]:
        parts = [self._object(depth), self._object(depth)]
        for part in parts:
            part.pop("additionalProperties", None)
        return {"allOf": parts} if self._some(0.6) else {"allOf": parts, "unevaluatedProperties": False}

    def _conditional(self, depth: int) -> dict[str, Any]:
        whole = self._object(depth)
        whole["properties"]["mode"] = {"enum": ["on", "off"]}
        whole["if"] = {"properties": {"mode": {"const": "on"}}, "required": ["mode"]}
        whole["then"] = {"required": [self._name()]}
        if self._some(0.5):
            whole["else"] = {"properties": {self._name(): self._any(0)}}
        return whole


def invented(seeds: Iterator[int] | range) -> Iterator[tuple[str, Any]]:
    for seed in seeds:
        yield f"invented/{seed}", Inventor(seed).schema()


# -- walking -------------------------------------------------------------------------------------------------


class Walker:
    """Walks over one vocabulary. Tokens are drawn from the masks alone."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.compiler = Compiler(vocabulary, limits=Limits(seconds=120))
        self._texts = [vocabulary[token] for token in range(vocabulary.size)]
        self._single = {data[0]: token for token, data in enumerate(self._texts) if len(data) == 1}
        self._eos = set(vocabulary.eos)

    def walk(self, grammar: Grammar, rng: random.Random, patience: int = 25) -> str:
        """A text: up to `patience` tokens of any kind, then the way to an end, byte by byte."""
        state, text = grammar.start, b""
        for _ in range(patience):
            mask = self._mask(grammar, state, text)
            allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            if grammar.accepts(state) and (len(allowed) == len(self._eos) or rng.random() < 0.2):
                return text.decode()
            token = next(iter(self._eos))
            while token in self._eos:
                token = int(allowed[rng.randrange(len(allowed))])
            state, text = grammar.step(state, token), text + self._texts[token]
            assert state != DEAD, "a token of the mask is refused"
        for byte in way_out(grammar, state, text):
            token = self._single[byte]
            assert _has(self._mask(grammar, state, text), token)
            state, text = grammar.step(state, token), text + bytes([byte])
        assert grammar.accepts(state)
        self._mask(grammar, state, text)
        return text.decode()

    def _mask(self, grammar: Grammar, state: int, text: bytes) -> NDArray[np.int32]:
        mask = grammar.mask(state)
        assert mask.any(), f"dead end after {text!r}"
        assert all(_has(mask, token) == grammar.accepts(state) for token in self._eos)
        return mask


def _has(mask: NDArray[np.int32], token: int) -> bool:
    return bool(mask[token >> 5] >> (token & 31) & 1)


def way_out(grammar: Grammar, state: int, text: bytes) -> bytes:
    """Bytes that end the text. A search that tries first what closes something, and opens only so much:
    little for places where anything may stand, more for those that require much.
    """
    for deeper, most in ((0, 300), (14, 3000), (1, 5000), (3, 40_000)):
        found = _search(grammar, state, text, _open(text) + deeper, most)
        if found is not None:
            return found
    raise AssertionError(f"no end in sight after {text!r}")


def _search(grammar: Grammar, state: int, text: bytes, deepest: int, most: int) -> bytes | None:
    """Depth first, `most` states, at most so many brackets open."""
    met = {state}
    path = [(state, iter(_choices(grammar, state, text)))]
    start = len(text)
    while path and len(met) < most:
        here, choices = path[-1]
        if grammar.accepts(here):
            return text[start:]
        for byte in choices:
            there = grammar.step_bytes(here, bytes([byte]))
            if there != DEAD and there not in met:
                longer = text + bytes([byte])
                if byte in b"{[" and _open(longer) > deepest:
                    continue
                met.add(there)
                text = longer
                path.append((there, iter(_choices(grammar, there, text))))
                break
        else:
            path.pop()
            text = text[:-1]
    return None


def _bare(text: bytes) -> bytes:
    """Without what is escaped, and without the strings that are closed."""
    return re.sub(rb'"[^"]*"', b"", re.sub(rb"\\.", b"", text, flags=re.S))


def _open(text: bytes) -> int:
    outside = _bare(text).partition(b'"')[0]
    return sum((byte in b"{[") - (byte in b"}]") for byte in outside)


_LETTERS = bytes(b for b in range(33, 256) if b not in b'"{}[],:')
_OUTSIDE = b"}]:," + _LETTERS + b'"[{ \n\t\r'
_INSIDE = bytes([*b'"}]:,', *_LETTERS, *b"[{", *range(33)])


def _choices(grammar: Grammar, state: int, text: bytes) -> Iterable[int]:
    """All bytes, in the order in which they lead to the end of a JSON text. In a key, those come first that
    few others are like: they spell the names that the schema has.
    """
    outside, quote, _ = _bare(text).partition(b'"')
    if not quote:
        return _OUTSIDE
    if not re.search(rb"[{,]\s*\Z", outside) or _innermost(outside) == b"[":
        return _INSIDE
    targets = [grammar.step_bytes(state, bytes([byte])) for byte in range(256)]
    like = Counter(targets)
    return sorted(range(256), key=lambda byte: like[targets[byte]])


def _innermost(outside: bytes) -> bytes:
    """The bracket that is open."""
    while (shorter := re.sub(rb"\{[^][{}]*\}|\[[^][{}]*\]", b"", outside)) != outside:
        outside = shorter
    return re.sub(rb"[^][{}]", b"", outside)[-1:]


setcontext(Context(prec=6000))


def _is_integer(_: Any, value: Any) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


FORMATS = jsonschema.FormatChecker()


@FORMATS.checks("time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.time.fromisoformat(value.upper()).tzinfo is not None


@FORMATS.checks("date-time", raises=ValueError)
def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or datetime.datetime.fromisoformat(value.upper()).tzinfo is not None


@FORMATS.checks("hostname")
def _is_hostname(value: object) -> bool:
    labels = value.split(".") if isinstance(value, str) else ["a"]
    return all(re.fullmatch("[A-Za-z0-9-]{1,63}", label) and label.strip("-") == label for label in labels)


@FORMATS.checks("email")
def _is_email(value: object) -> bool:
    local, _, host = value.partition("@") if isinstance(value, str) else ("a", "", "a")
    return all(re.fullmatch(r"[\w!#$%&'*+/=?^`{|}~-]+", atom, re.A) for atom in local.split(".")) and (
        _is_hostname(host)
    )


@FORMATS.checks("duration")
def _is_duration(value: object) -> bool:
    """Units in their order without a gap: ISO 8601 as RFC 3339 narrows it."""
    if not isinstance(value, str) or re.fullmatch("P[0-9]+W", value):
        return True
    days, _, hours = value.removeprefix("P").partition("T")
    parts = [re.sub("[0-9]+", "", part) for part in (days, hours)]
    numbered = re.fullmatch("P([0-9]+[YMD])*(T([0-9]+[HMS])+)?", value) is not None
    return numbered and value != "P" and parts[0] in "YMD" and parts[1] in "HMS"


@FORMATS.checks("uri", raises=ValueError)
def _is_uri(value: object) -> bool:
    return not isinstance(value, str) or (value.isascii() and urllib.parse.urlsplit(value).scheme != "")


def as_re(schema: Any, parent: str = "") -> Any:
    """The schema with patterns as ECMA means them, said to Python's `re`."""
    if isinstance(schema, list):
        return [as_re(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {}
    for key, value in schema.items():
        if parent == "patternProperties":
            changed[_as_re(key)] = as_re(value)
        elif key == "pattern" and isinstance(value, str):
            changed[key] = _as_re(value)
        else:
            changed[key] = as_re(value, key) if key not in ("enum", "const") else value
    return changed


def _as_re(pattern: str) -> str:
    for ecma, python in ((r"\d", "[0-9]"), (r"\w", "[A-Za-z0-9_]")):
        pattern = re.sub(
            r"\[[^\]]*\]", lambda m, e=ecma, p=python: m[0].replace(e, p.strip("[]")), pattern
        ).replace(ecma, python)
    return re.sub(r"\$$", r"\\Z", pattern)


def validator(schema: Any) -> Any:
    """jsonschema with decimal numbers: its remainders of floats are not those of the numbers as written."""
    cls = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    exact = jsonschema.validators.extend(cls, type_checker=cls.TYPE_CHECKER.redefine("integer", _is_integer))
    return exact(json.loads(json.dumps(as_re(schema)), parse_float=Decimal), format_checker=FORMATS)


def number(text: str) -> Decimal:
    """A JSON number exactly as written; with another exponent if it has one that Decimal does not read."""
    try:
        return Decimal(text)
    except InvalidOperation:
        digits, exponent = re.split("[eE]", text)
        return Decimal(f"{digits}e{'-' if exponent.startswith('-') else ''}999")


def check_schema(walker: Walker, schema: Any, rng: random.Random, walks: int) -> int:
    """Compiles, walks, validates; the number of walks. Raises ConstrainError where the schema is refused."""
    valid = validator(schema)
    options: list[dict[str, Any]] = [{}, {"key_order": "any"}, {"compact": True}, {"max_whitespace": 1}]
    for _ in range(walks):
        grammar = walker.compiler.json_schema(schema, **rng.choice(options))
        text = walker.walk(grammar, rng, rng.choice([3, 12, 40]))
        valid.validate(json.loads(text, parse_float=number))
    return walks


@pytest.fixture(scope="module")
def walker(vocabulary: Vocabulary) -> Walker:
    return Walker(vocabulary)


@pytest.mark.parametrize(("name", "schema"), WRITTEN, ids=[name for name, _ in WRITTEN])
def test_walks_under_a_schema_end_in_what_it_allows(walker: Walker, name: str, schema: Any) -> None:
    jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    check_schema(walker, schema, random.Random(name), 3)


def test_walks_under_invented_schemas(walker: Walker) -> None:
    refused: Counter[str] = Counter()
    for name, schema in invented(range(80)):
        try:
            check_schema(walker, schema, random.Random(name), 2)
        except ConstrainError as error:
            refused[type(error).__name__] += 1
    # What is refused is refused by name, and there is little of it.
    assert sum(refused.values()) <= 6, refused


@pytest.mark.parametrize(("name", "schema"), WRITTEN, ids=[name for name, _ in WRITTEN])
def test_values_nearby_are_accepted_where_they_are_valid(walker: Walker, name: str, schema: Any) -> None:
    assert check_nearby(walker, schema, random.Random(name), 25)


def check_nearby(walker: Walker, schema: Any, rng: random.Random, count: int) -> int:
    """Changes a value that the schema allows, again and again: both accept the same values."""
    grammar = walker.compiler.json_schema(schema, key_order="any")
    valid = validator(schema)
    value = start = json.loads(walker.walk(grammar, rng, 12), parse_float=number)
    for _ in range(count):
        value = changed(value if rng.random() < 0.6 else start, rng)
        text = written(value)
        found = grammar.accepts(grammar.step_bytes(grammar.start, text.encode()))
        assert found == valid.is_valid(value), text
    return count


_PARTS: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    5,
    12,
    Decimal("1.5"),
    Decimal("0.25"),
    100,
    "",
    "a",
    "ab-12",
    "é",
    [],
    {},
]


def changed(value: Any, rng: random.Random) -> Any:
    """The value with one thing in it different."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        kind = rng.random()
        if kind < 0.25:
            return rest
        if kind < 0.4:
            other = rng.choice(["a", "b", "id", "name", "x", "_q", key + "x"])
            return {**value, other: rng.choice(_PARTS)}
        return {**rest, key: changed(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.5:
            return [*value[:i], changed(value[i], rng), *value[i + 1 :]]
        return value[:i] + value[i + 1 :] if kind < 0.75 else [*value, rng.choice([value[i], *_PARTS])]
    if isinstance(value, str) and value and rng.random() < 0.7:
        i = rng.randrange(len(value))
        return value[:i] + rng.choice(["", "a", "0", "-", '"', "Z", value[i] * 2]) + value[i + 1 :]
    if isinstance(value, int | Decimal) and not isinstance(value, bool) and rng.random() < 0.7:
        number = value + rng.choice([1, -1, 10, -value, Decimal("0.5"), Decimal("-0.01")])
        return int(number) if number == int(number) else number
    return rng.choice(_PARTS)


def written(value: Any) -> str:
    """As JSON, numbers digit by digit and whole ones without a fraction."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)}: {written(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, Decimal):
        return str(int(value)) if value == int(value) else format(value, "f")
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_walks_under_a_pattern_end_in_matches(walker: Walker, pattern: str) -> None:
    rng = random.Random(pattern)
    for _ in range(6):
        text = walker.walk(walker.compiler.regex(pattern), rng, rng.choice([3, 12]))
        assert re.fullmatch(pattern, text), text


def test_there_are_two_hundred_schemas_and_they_differ() -> None:
    texts = {json.dumps(schema) for _, schema in [*WRITTEN, *invented(range(80))]}
    assert len(texts) >= 200 and len(WRITTEN) > 140


def main(walks: int = 10_000, first: int = 0) -> None:
    from conftest import smollm2 as fixture  # the folder of this file is on the path of a script

    walker = Walker(fixture.__wrapped__())
    began, done, rng = time.monotonic(), 0, random.Random(first)
    refused: dict[str, str] = {}
    schemas = [*WRITTEN, *invented(range(first, first + 200))]
    of_patterns = walks // 10
    while done < walks - of_patterns:
        for name, schema in schemas:
            if name not in refused:
                try:
                    done += check_schema(walker, schema, rng, 3)
                except ConstrainError as error:
                    refused[name] = f"{type(error).__name__}: {error}"
    nearby = sum(check_nearby(walker, s, rng, 40) for n, s in schemas if n not in refused)
    for _ in range(of_patterns // len(PATTERNS)):
        for pattern in PATTERNS:
            text = walker.walk(walker.compiler.regex(pattern), rng, rng.choice([3, 12, 40]))
            assert re.fullmatch(pattern, text), (pattern, text)
            done += 1
    schemas_walked = len(schemas) - len(refused)
    print(f"{done} walks over {schemas_walked} schemas and {len(PATTERNS)} patterns: all valid, all ended")
    print(f"{nearby} values nearby: accepted exactly where valid; {time.monotonic() - began:.0f} s")
    print(f"{len(refused)} more schemas were refused:")
    for name, reason in refused.items():
        print(f"  {name}: {reason}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
