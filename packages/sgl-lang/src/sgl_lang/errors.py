# SPDX-License-Identifier: Apache-2.0
"""Everything a program can fail with, as one family.

    SglError
    ├── ProgramError           the program asks for something that makes no sense; says what and what to do
    ├── BackendError           a backend did not give an answer; carries its own words
    └── UnsupportedByBackend   this backend cannot do it; says which one can, or what to write instead

The words are meant to be read by whoever runs the program; types are for code that wants to tell them apart.
"""

from __future__ import annotations


class SglError(Exception):
    """An error with a sentence meant for the person who can mend it."""


class ProgramError(SglError):
    """A mistake in the program, raised at the line that makes it."""


class BackendError(SglError):
    """A generation failed.

    Attributes:
        status: the HTTP status, where there was one.
        retry_after: seconds after which the other side wants to be asked again, where it said so.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class UnsupportedByBackend(SglError):
    """The backend has no such ability. Raised before anything is asked of it."""
