# SPDX-License-Identifier: Apache-2.0
"""`Reader`: follows a text that grows in another thread, and hands out each piece once.

It says whether there is something new and takes it; how to wait in between is left to its user, who may block
or be a coroutine.
"""

from __future__ import annotations

from typing import Any

from sgl_lang.errors import ProgramError
from sgl_lang.executor import Executor
from sgl_lang.variable import Variable


class Reader:
    """One pass over the text of a state (`name` None) or over one of its variables.

    Args:
        inside: the reader is the program itself, which cannot wait for its own end: what was appended is all.
    """

    def __init__(self, executor: Executor, name: str | None, *, inside: bool) -> None:
        self._executor = executor
        self._name = name
        self._inside = inside
        self.variable: Variable | None = None  # once it is known
        self._taken = 0
        if inside:
            with executor.run.changed:
                executor.flush()
            executor.run.dispatch()

    @property
    def over(self) -> bool:
        """Nothing will be added to the text any more."""
        if self._name is None:
            return self._executor.idle if self._inside else self._executor.run.ended
        variable = self._find()
        if variable is None:
            return self._inside or self._executor.run.ended
        return variable.done

    @property
    def ready(self) -> bool:
        """There is a new piece, or there will be none."""
        return len(self._text()) > self._taken or self.over

    def take(self) -> str:
        """What is new; "" if nothing is."""
        piece = self._text()[self._taken :]
        self._taken += len(piece)
        return piece

    @property
    def meta_info(self) -> Any:
        """Of the variable, as of now."""
        variable = self._find()
        return {} if variable is None else variable.meta_info

    def check(self) -> None:
        """Raise what went wrong with a text that is over, if something did."""
        if self._name is not None:
            self.value()
        elif self._executor.failure is not None:
            self._executor.failure.throw()

    def value(self) -> Any:
        """The value of a variable that is done. Raises its error; without a variable, why there is none."""
        variable = self._find()
        if variable is None:
            if self._executor.failure is not None:  # it may have been asked for later, had we come so far
                self._executor.failure.throw()
            known = ", ".join(map(repr, self._executor.names)) or "none yet"
            raise ProgramError(f"this program has no variable {self._name!r}; it has {known}")
        return variable.value()

    def _text(self) -> str:
        if self._name is None:
            return self._executor.transcript.text
        variable = self._find()
        return "" if variable is None else variable.text

    def _find(self) -> Variable | None:
        if self.variable is None and self._name is not None:
            self.variable = self._executor.find(self._name)
        return self.variable
