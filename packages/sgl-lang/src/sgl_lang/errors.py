# SPDX-License-Identifier: Apache-2.0
"""Everything a program can fail with, as one family.

    SglError
    ├── ProgramError           the program asks for something that makes no sense; says what and what to do
    ├── BackendError           a backend did not give an answer; carries its own words
    └── UnsupportedByBackend   this backend cannot do it, another may

The words are meant to be read by whoever runs the program; types are for code that wants to tell them apart.
"""

from __future__ import annotations


class SglError(Exception):
    """An error with a sentence meant for the person who can mend it."""


class ProgramError(SglError):
    """A mistake in the program, raised at the line that makes it."""


class BackendError(SglError):
    """A generation failed. `status` is the HTTP status, where there was one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UnsupportedByBackend(SglError):
    """The backend has no such ability."""
