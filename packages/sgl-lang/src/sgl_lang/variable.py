# SPDX-License-Identifier: Apache-2.0
"""`Variable`: what a generation, a choice or the program itself gives a name to; a value or an error."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from sgl_lang.run import Failure


class Variable:
    """A value that may still be on its way. Changed only under the run's lock."""

    __slots__ = ("failure", "future", "meta_info", "text")

    def __init__(self) -> None:
        self.future: Future[Any] = Future()
        self.failure: Failure | None = None
        self.text = ""  # so far
        self.meta_info: Any = {}

    def fail(self, failure: Failure) -> None:
        self.failure = failure
        self.future.set_exception(failure.error)
