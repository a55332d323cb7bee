# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong by somebody's doing, as one family.

    SglError
    ├── InvalidRequest   400  a field of a request is wrong; names the field and the remedy
    ├── NotFound         404  a model, request or route that does not exist
    ├── Conflict         409  what is there does not allow it now
    ├── TooLarge         413  what is sent has no place beside what is kept; something must be deleted first
    ├── TooMany          429  so many may be under way at once; one must end first
    ├── Overloaded       503  a limit of this server is reached; the same request may succeed later
    ├── StorageFailed    507  files cannot be kept: the disk is full, or does not allow it
    ├── Unanswered       500  a request has ended, or was ended, before there was an answer to give
    ├── EngineDied       500  a process of the server ended; no request can be answered any more
    └── ConfigError      the server cannot start as asked: exit with one line, no traceback

Raised at the boundary where the mistake is visible. Inside, `assert` states invariants.
"""

from __future__ import annotations


class SglError(Exception):
    """An error with a sentence meant for the person who can mend it. `status` is its HTTP status."""

    status = 500
    kind = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(SglError):
    status = 400
    kind = "invalid_request_error"


class NotFound(SglError):
    status = 404
    kind = "not_found_error"


class Conflict(SglError):
    status = 409
    kind = "invalid_request_error"


class TooLarge(SglError):
    status = 413
    kind = "invalid_request_error"


class TooMany(SglError):
    status = 429
    kind = "rate_limit_error"


class Overloaded(SglError):
    status = 503
    kind = "overloaded_error"


class Unanswered(SglError):
    status = 500
    kind = "unanswered"


class StorageFailed(SglError):
    status = 507
    kind = "storage_error"


class EngineDied(SglError):
    status = 500
    kind = "engine_died"


class ConfigError(SglError):
    """A flag, a file or the machine does not allow the server to start."""

    kind = "config_error"
