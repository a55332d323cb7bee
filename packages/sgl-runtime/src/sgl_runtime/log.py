# SPDX-License-Identifier: Apache-2.0
"""One log format for every process: `12:03:11 replica0 scheduler  admitted 3 requests`.

Knows only the standard library. A process calls `configure` once, with its own name; modules ask for
`logger(__name__)`.
"""

from __future__ import annotations

import logging
import sys


def configure(process: str, level: str, *, http_level: str | None = None) -> None:
    """Log to standard error from now on, under the name of this process."""
    formatter = logging.Formatter(f"%(asctime)s {process:<9} %(tail)-10s %(message)s", datefmt="%H:%M:%S")
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(formatter)
    stream.addFilter(_add_tail)
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level.upper() if level != "debug" else "INFO")
    logging.getLogger("sgl_runtime").setLevel(level.upper())
    logging.getLogger("hypercorn").setLevel((http_level or level).upper())
    logging.getLogger("sgl_runtime.http").setLevel((http_level or level).upper())


def _add_tail(record: logging.LogRecord) -> bool:
    record.tail = record.name.rpartition(".")[2]
    return True


def logger(name: str) -> logging.Logger:
    return logging.getLogger(name)
