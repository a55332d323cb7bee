# SPDX-License-Identifier: Apache-2.0
"""The official test suite of JSON Schema, out of the source distribution of jsonschema.

    pip download --no-deps --no-binary jsonschema jsonschema==4.26.0
    python packages/sgl-constrain/tests/official_suite.py jsonschema-4.26.0.tar.gz [--draft draft7] [--show]

A group is one schema with values. It is *right* when every valid value can be written and no invalid one is
accepted; *stricter* when all that is missed is a string of a wrong format, which this library enforces and
the suite takes for an annotation; *refused* when UnsupportedSchema names a keyword, *large* when a limit is
reached; *missed* when a valid value cannot be written; *unsound* when an invalid one is accepted. A value can
be written when one of its spellings is in the language: 1.0 as `1`, characters as themselves or escaped.
Exits with 1 when a group is unsound.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from sgl_constrain.automaton import Automaton
from sgl_constrain.errors import ConstrainError, GrammarTooLarge, UnsupportedSchema
from sgl_constrain.expression import Expressions
from sgl_constrain.limits import Limits
from sgl_constrain.schema.compiling import json_schema, parse_schema
from sgl_constrain.states import DEAD
from sgl_constrain.utf8 import Heads

_HEADS = Heads()
_OLD = {f"draft{n}": f"http://json-schema.org/draft-0{n}/schema#" for n in (3, 4, 6, 7)}
_HOST = "http://localhost:1234/"


class Suite:
    """The tests of one draft, and the documents that their references point to."""

    def __init__(self, source: str, draft: str) -> None:
        self.draft = draft
        self.groups: dict[str, Any] = {}
        self.resources: dict[str, Any] = {}
        with tarfile.open(source) as archive:
            for member in archive:
                _, _, path = member.name.partition("/json/")
                if member.isfile() and path.endswith(".json") and (file := archive.extractfile(member)):
                    self._take(PurePosixPath(path), json.load(file))
        self.resources |= _metaschemas()

    def _take(self, path: PurePosixPath, content: Any) -> None:
        if path.parts[0] == "remotes":
            self.resources[_HOST + "/".join(path.parts[1:])] = content
        elif path.parts[:2] == ("tests", self.draft) and len(path.parts) == 3:
            self.groups[path.stem] = content

    def schema(self, group: Any) -> Any:
        schema = group["schema"]
        if isinstance(schema, dict) and self.draft in _OLD:
            return {"$schema": _OLD[self.draft], **schema}
        return schema


def _metaschemas() -> dict[str, Any]:
    from jsonschema_specifications import REGISTRY

    return {uri: REGISTRY[uri].contents for uri in REGISTRY}


def compiled(schema: Any, resources: dict[str, Any]) -> Automaton:
    expressions = Expressions(_HEADS, Limits(seconds=120))
    parsed, _ = parse_schema(schema, most_chars=expressions.limits.source_chars)
    root, _ = json_schema(
        expressions, parsed, max_whitespace=1, any_order=True, lenient=False, resources=resources
    )
    return Automaton(expressions, root)


def can_be_written(automaton: Automaton, value: Any) -> bool:
    return any(_accepts(automaton, text.encode("utf-8", "surrogatepass")) for text in _spelled(value))


def _spelled(value: Any) -> Iterator[str]:
    for same in (value, _without_fractions(value)):
        yield json.dumps(same)
        yield json.dumps(same, ensure_ascii=False)


def _without_fractions(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_fractions(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_fractions(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _accepts(automaton: Automaton, data: bytes) -> bool:
    state = automaton.start
    for byte in data:
        state = next((target for mask, target in automaton.moves(state) if mask >> byte & 1), DEAD)
    return automaton.accepts(state)


def verdict(schema: Any, tests: Any, resources: dict[str, Any]) -> tuple[str, str]:
    """What becomes of a group, and why."""
    try:
        automaton = compiled(schema, resources)
    except UnsupportedSchema as refusal:
        return "refused", str(refusal)
    except GrammarTooLarge as refusal:
        return "large", str(refusal)
    except ConstrainError as refusal:
        return "missed", str(refusal)
    accepted = [can_be_written(automaton, test["data"]) for test in tests]
    wrong = [t for t, found in zip(tests, accepted, strict=True) if found and not t["valid"]]
    missed = [t for t, found in zip(tests, accepted, strict=True) if t["valid"] and not found]
    if wrong:
        return "unsound", str([test["data"] for test in wrong])
    if not missed:
        return "right", ""
    formats = isinstance(schema, dict) and schema.keys() == {"$schema", "format"}
    strict = formats and all("only an annotation" in test["description"] for test in missed)
    return "stricter" if strict else "missed", str([test["data"] for test in missed])


def main() -> None:
    parser = argparse.ArgumentParser(description="The official suite.", allow_abbrev=False)
    parser.add_argument("source", help="jsonschema's source distribution, a .tar.gz")
    parser.add_argument("--draft", default="draft2020-12")
    parser.add_argument("--alone", action="store_true", help="without the documents that references point to")
    parser.add_argument("--show", action="store_true", help="name every group that is not right")
    options = parser.parse_args()
    suite = Suite(options.source, options.draft)
    found: Counter[str] = Counter()
    for name, groups in sorted(suite.groups.items()):
        for group in groups:
            resources = {} if options.alone else dict(suite.resources)
            kind, reason = verdict(suite.schema(group), group["tests"], resources)
            found[kind] += 1
            if options.show and kind != "right":
                print(f"{kind:<9}{name}: {group['description']}: {reason[:160]}")
    print(f"{options.draft}: {found.total()} groups: {', '.join(f'{n} {k}' for k, n in found.most_common())}")
    if found["unsound"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
