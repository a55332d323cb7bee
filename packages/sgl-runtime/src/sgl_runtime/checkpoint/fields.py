# SPDX-License-Identifier: Apache-2.0
"""`Fields`: the values of one configuration file, each read as what it must be or refused by name.

A field may have several names, because publishers spell the same thing differently; the first that the file
has is read and named. What the fields mean is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import msgspec

from sgl_runtime.errors import ConfigError

Names: TypeAlias = str | tuple[str, ...]  # of one field; the first is the one to give when all are missing


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in `file`. Raises ConfigError naming the file if there is none."""
    try:
        value = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} must hold a JSON object, not a {type(value).__name__}")
    return value


class Fields:
    """The fields of one file. A missing field is one that is absent or null; every refusal names file and
    field."""

    def __init__(
        self, file: Path, values: Mapping[str, Any], written: Mapping[str, str] | None = None
    ) -> None:
        self.file = file
        self.values = values
        self._written = written or {}  # names that the file itself spells otherwise

    def fail(self, name: str, problem: str) -> NoReturn:
        raise ConfigError(f"{self.file}: {self._written.get(name, name)} {problem}", param=name)

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def spelled(self, names: Names) -> str:
        """The one of `names` that the file has; if it has none, the first."""
        if isinstance(names, str):
            return names
        return next((name for name in names if self.has(name)), names[0])

    def integer(self, names: Names, default: int | None = None) -> int:
        """A positive integer; without a default the field is required."""
        name = self.spelled(names)
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            self.fail(name, f"must be a positive integer, not {value!r}")
        return value

    def count(self, names: Names, default: int | None = None) -> int:
        """As `integer`, where none is a number too."""
        name = self.spelled(names)
        return 0 if self._value(name, default) == 0 else self.integer(name, default)

    def number(self, names: Names, default: float | None = None) -> float:
        """A positive number; without a default the field is required."""
        name = self.spelled(names)
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            self.fail(name, f"must be a positive number, not {value!r}")
        return float(value)

    def optional(self, names: Names) -> float | None:
        """A positive number, or None where the field is missing."""
        return self.number(names) if self.has(self.spelled(names)) else None

    def boolean(self, names: Names, default: bool) -> bool:
        name = self.spelled(names)
        value = self._value(name, default)
        if not isinstance(value, bool):
            self.fail(name, f"must be true or false, not {value!r}")
        return value

    def string(self, names: Names, default: str | None = None) -> str:
        name = self.spelled(names)
        value = self._value(name, default)
        if not isinstance(value, str):
            self.fail(name, f"must be a string, not {value!r}")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """Token ids given as one integer, a list of them, or not at all."""
        value = self.values.get(name)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in ids):
            self.fail(name, f"must be a token id or a list of token ids, not {value!r}")
        return tuple(ids)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None and default is None:
            self.fail(name, "is missing")
        return default if value is None else value
