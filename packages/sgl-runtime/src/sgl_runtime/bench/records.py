# SPDX-License-Identifier: Apache-2.0
"""Results as JSON lines, appended to a file: one run after another, of any version, stays readable."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sgl_runtime.errors import ConfigError, StorageFailed


def check_file(name: str | None, flag: str) -> None:
    """Refuse a file that cannot be written before the work, not after it. Raises ConfigError."""
    if not name:
        return
    try:
        if Path(name).is_dir():
            raise ConfigError(f"{flag} {name} is a folder; name a file")
        if not Path(name).absolute().parent.is_dir():
            raise ConfigError(f"{flag} {name}: its folder does not exist; make it first")
        new = not Path(name).exists()
        with Path(name).open("ab"):
            pass
        if new:
            Path(name).unlink()
    except OSError as error:
        raise ConfigError(f"{flag} {name} cannot be written: {error.strerror}; name another file") from None


def append(name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """One line for each row. Numbers that JSON has not (infinities) are not allowed in it.

    Raises StorageFailed.
    """
    try:
        with Path(name).open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n")
    except OSError as error:
        raise StorageFailed(f"{name} cannot be written: {error.strerror}") from None


def read(name: str, flag: str) -> list[dict[str, Any]]:
    """The rows of such a file. Raises ConfigError, naming the line that is none."""
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{flag} {name} cannot be read: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ConfigError(f"{flag} {name}: line {number} is not a JSON object")
        rows.append(row)
    return rows
