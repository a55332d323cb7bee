# SPDX-License-Identifier: Apache-2.0
"""A recording becomes two files side by side: the trace, and the table as text."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TextIO

from sgl_runtime.errors import ConfigError
from sgl_runtime.profile.spans import Spans
from sgl_runtime.profile.table import shapes, table
from sgl_runtime.profile.trace import write_trace


def write_report(folder: Path, name: str, spans: Spans) -> tuple[Path, str]:
    """Write `<name>-<date>-<time>.trace.json` and `.txt` into `folder`, made if need be; a number follows the
    time of what is there already.

    Returns the first file, and the text of the second. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _new_file(folder, f"{name}-{time.strftime('%Y%m%d-%H%M%S')}") as file:
        trace = Path(file.name).with_suffix(".trace.json")
        steps = spans.steps()
        write_trace(trace, steps, process=name, device="device")
        text = table(shapes(steps), lost=spans.lost)
        file.write(text)
    return trace, text


def _new_file(folder: Path, stem: str) -> TextIO:
    """`<stem>.txt`, or the first `<stem>-2.txt`, … that nobody has written."""
    for number in count(1):
        with suppress(FileExistsError):
            return (folder / (f"{stem}.txt" if number == 1 else f"{stem}-{number}.txt")).open("x")
    raise AssertionError("numbers do not end")


def check_folder(folder: str | None) -> None:
    """Make the folder of `--profile` now rather than after hours of recording. Raises ConfigError."""
    if folder is None:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--profile {folder} is no folder that can be written: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--profile {folder} is no folder that can be written")
