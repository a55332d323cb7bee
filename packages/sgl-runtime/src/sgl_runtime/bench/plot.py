# SPDX-License-Identifier: Apache-2.0
"""Results as pictures. The only module that imports matplotlib, and only when a picture is asked for."""

from __future__ import annotations

import contextlib
import importlib
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from sgl_runtime.errors import ConfigError, StorageFailed

Line = tuple[str, Sequence[float], Sequence[float]]  # name, x, y
_SIZE = (5.0, 4.0)  # inches of one panel
_COLUMN = {int: "INTEGER", float: "REAL", str: "TEXT", bool: "INTEGER"}


def check_plot(file: str | None) -> None:
    """Refuse a picture that cannot be drawn, before the work. Raises ConfigError."""
    if file is None:
        return
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "--graph-filename needs matplotlib: pip install 'sgl-runtime[bench]'", param="graph_filename"
        )
    canvas = importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg
    kind = Path(file).suffix.lstrip(".").lower()
    if kind not in canvas.get_supported_filetypes():
        known = ", ".join(sorted(canvas.get_supported_filetypes()))
        raise ConfigError(
            f"--graph-filename {file}: the ending must be one of {known}", param="graph_filename"
        )


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    marks: bool = True


def draw(file: str, panels: Sequence[Panel]) -> None:
    """The panels side by side, in a file of the kind that its name ends with. Raises StorageFailed."""
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(_SIZE[0] * len(panels), _SIZE[1]), layout="constrained"
    )
    importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        for name, x, y in panel.lines:
            axes.plot(x, y, label=name, marker="o" if panel.marks else "")
        axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if panel.lines:
            axes.legend(fontsize="small")
    try:
        figure.savefig(file)
    except OSError as error:
        raise StorageFailed(f"{file} cannot be written: {error.strerror}") from None


def distribution(name: str, values: Sequence[float]) -> Line:
    """The share of `values` that are at most x."""
    ordered = np.sort(np.asarray(values, float))
    return name, ordered.tolist(), (np.arange(1, len(ordered) + 1) / max(1, len(ordered))).tolist()


def query(rows: Sequence[Mapping[str, Any]], sql: str) -> Panel:
    """`sql` over a table `results` of these rows; its columns are a line's name, x and y. Raises ConfigError.

    Values that are lists or objects are no columns; a point that lacks x or y is left out.
    """
    columns = {
        key: _COLUMN[type(value)] for row in rows for key, value in row.items() if type(value) in _COLUMN
    }
    if not columns:
        raise ConfigError("--graph-sql: there are no results to draw; run first with --result-filename")
    try:
        names, found = _ask(rows, columns, sql)
    except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
        raise ConfigError(f"--graph-sql: {error}; the columns are {', '.join(columns)}") from None
    if len(names) != 3:
        raise ConfigError(f"--graph-sql gives {len(names)} columns; needed are a line's name, x and y")
    drawn = [(str(name), x, y) for name, x, y in found if x is not None and y is not None]
    for value in (value for _, *point in drawn for value in point):
        if not isinstance(value, int | float):
            raise ConfigError(f"--graph-sql: {value!r} is not a number, as x and y must be")
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for name, x, y in sorted(drawn, key=lambda row: row[:2]):
        xs, ys = lines.setdefault(name, ([], []))
        xs.append(x)
        ys.append(y)
    return Panel("", names[1], names[2], [(name, *line) for name, line in lines.items()])


def _ask(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], sql: str
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names and rows of what `sql` finds in a table `results` of such columns. Raises what sqlite3 raises."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        declared = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        database.execute(f"CREATE TABLE results ({declared})")
        marks = ", ".join("?" * len(columns))
        values = [[row.get(name) for name in columns] for row in rows]
        database.executemany(f"INSERT INTO results VALUES ({marks})", values)
        cursor = database.execute(sql)
        return [column[0] for column in cursor.description or ()], cursor.fetchall()
