# SPDX-License-Identifier: Apache-2.0
"""`Variable`: what a generation, a choice or the program itself gives a name to; a value or an error."""

from __future__ import annotations

from typing import Any

from sgl_lang.run import Failure


class Variable:
    """A value that may still be on its way. Changed only under the run's lock.

    Attributes:
        done: it has its value, or `failure`.
        text: so far.
    """

    __slots__ = ("_value", "done", "failure", "meta_info", "text")

    def __init__(self) -> None:
        self.done = False
        self.failure: Failure | None = None
        self.text = ""
        self.meta_info: Any = {}
        self._value: Any = None

    def fill(self, value: Any, text: str, meta_info: Any) -> None:
        """This is its value."""
        self.text = text
        self.meta_info = meta_info
        self._value = value
        self.done = True  # last: a reader looks without the lock

    def fail(self, failure: Failure) -> None:
        """It will have no value."""
        self.failure = failure
        self.done = True

    def value(self) -> Any:
        """What it was filled with; raises what it failed with. Only when it is done."""
        assert self.done, "nobody reads a variable that is not done"
        if self.failure is not None:
            self.failure.throw()
        return self._value
