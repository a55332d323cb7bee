# SPDX-License-Identifier: Apache-2.0
"""Every keyword of JSON Schema and what becomes of it: read by a function, read together with another
keyword, an annotation, or refused by name. A keyword that is in no table says nothing about values, as the
specification has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sgl_constrain.schema.keywords import arrays, combinations, objects, scalars
from sgl_constrain.schema.sets import Values
from sgl_constrain.schema.strings import FORMATS

if TYPE_CHECKING:
    from sgl_constrain.schema.reading import Reader

ANNOTATIONS = (
    *(
        "$comment",
        "$defs",
        "$id",
        "$anchor",
        "$dynamicAnchor",
        "$recursiveAnchor",
        "$schema",
        "$vocabulary",
        "definitions",
        "id",
    ),
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
BARE: Final = frozenset(("type", *ANNOTATIONS))  # a schema of these names a type and says nothing else
REFUSED = ("disallow", "divisibleBy", "extends")


def refuse(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    keyword = next(keyword for keyword in REFUSED if keyword in schema)
    raise reader.unsupported(number, keyword, "a keyword of a draft that is not supported")


_Read = Callable[["Reader", int, Mapping[str, Any], Values], Values]

# In the order in which they are read: unevaluated* last, after everything that looks at items and properties.
READERS: Final[dict[str, _Read]] = {
    "$ref": scalars.reference,
    "$dynamicRef": scalars.dynamic_reference,
    "$recursiveRef": scalars.recursive_reference,
    "type": scalars.types,
    "const": scalars.const,
    "enum": scalars.enum,
    "minimum": scalars.minimum,
    "maximum": scalars.maximum,
    "exclusiveMinimum": scalars.exclusive_minimum,
    "exclusiveMaximum": scalars.exclusive_maximum,
    "multipleOf": scalars.multiple_of,
    "minLength": scalars.min_length,
    "maxLength": scalars.max_length,
    "pattern": scalars.pattern,
    "format": scalars.format_,
    "prefixItems": arrays.prefix_items,
    "items": arrays.items,
    "minItems": arrays.min_items,
    "maxItems": arrays.max_items,
    "contains": arrays.contains,
    "uniqueItems": arrays.unique,
    "properties": objects.properties,
    "patternProperties": objects.properties,
    "additionalProperties": objects.properties,
    "required": objects.required,
    "minProperties": objects.min_properties,
    "maxProperties": objects.max_properties,
    "propertyNames": objects.property_names,
    "dependentRequired": objects.dependent_required,
    "dependentSchemas": objects.dependent_schemas,
    "dependencies": objects.dependencies,
    "allOf": combinations.all_of,
    "anyOf": combinations.any_of,
    "oneOf": combinations.one_of,
    "not": combinations.negation,
    "if": combinations.if_then_else,
    **dict.fromkeys(REFUSED, refuse),
    "unevaluatedItems": arrays.unevaluated_items,
    "unevaluatedProperties": objects.unevaluated_properties,
}

ORDER: Final = {keyword: place for place, keyword in enumerate(READERS)}

# Read together with the keyword named.
TOGETHER: Final = {
    "additionalItems": "items",
    "minContains": "contains",
    "maxContains": "contains",
    "then": "if",
    "else": "if",
}


def keyword_table() -> str:
    """Every keyword of JSON Schema and what becomes of it, in Markdown."""
    groups = {
        "enforced exactly": [k for k in READERS if k not in REFUSED],
        "enforced exactly, together with the keyword named": [
            f"{k}` (`{leader}`)" for k, leader in TOGETHER.items()
        ],
        "`format`: enforced": list(FORMATS),
        "says nothing about values": list(ANNOTATIONS),
        "refused": list(REFUSED),
    }
    rows = ["| what becomes of it | keywords |", "| --- | --- |"]
    for what, names in groups.items():
        cells = ", ".join(f"`{name}" if name.endswith(")") else f"`{name}`" for name in names)
        rows.append(f"| {what} | {cells} |")
    return "\n".join(rows)
