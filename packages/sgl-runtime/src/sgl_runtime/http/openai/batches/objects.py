# SPDX-License-Identifier: Apache-2.0
"""`File` and `Batch` as clients see them, and what clients send: the nouns of this package."""

from __future__ import annotations

from typing import Annotated, Generic, Literal, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

Status: TypeAlias = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
OPEN: tuple[Status, ...] = ("validating", "in_progress", "cancelling")  # there is work to do
_Key: TypeAlias = Annotated[str, Meta(max_length=64)]
_Value: TypeAlias = Annotated[str, Meta(max_length=512)]
_DAY_S = 24 * 3600
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": _DAY_S}


class File(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str  # as the client called it; never part of a path
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"


class Counts(msgspec.Struct, frozen=True):
    """Of lines. What is neither completed nor failed is still to do."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchInputDetails(msgspec.Struct, frozen=True):
    cached_tokens: int = 0


class BatchOutputDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the answers so far."""

    input_tokens: int = 0
    input_tokens_details: BatchInputDetails = BatchInputDetails()
    output_tokens: int = 0
    output_tokens_details: BatchOutputDetails = BatchOutputDetails()
    total_tokens: int = 0

    def plus(self, other: BatchUsage) -> BatchUsage:
        cached = self.input_tokens_details.cached_tokens + other.input_tokens_details.cached_tokens
        reasoning = self.output_tokens_details.reasoning_tokens + other.output_tokens_details.reasoning_tokens
        return BatchUsage(
            input_tokens=self.input_tokens + other.input_tokens,
            input_tokens_details=BatchInputDetails(cached),
            output_tokens=self.output_tokens + other.output_tokens,
            output_tokens_details=BatchOutputDetails(reasoning),
            total_tokens=self.total_tokens + other.total_tokens,
        )


NOTHING = BatchUsage()


class BatchError(msgspec.Struct, frozen=True):
    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchErrors(msgspec.Struct, frozen=True):
    data: list[BatchError]
    object: Literal["list"] = "list"


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None = None  # why it failed as a whole
    input_file_id: str
    completion_window: str
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = Counts()
    model: str | None = None  # None: not known yet, or lines ask for another one
    usage: BatchUsage = NOTHING
    metadata: dict[str, str] | None = None


class ExpiresAfter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=30 * _DAY_S)]


class BatchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,5}[smhd]$")]
    metadata: Annotated[dict[_Key, _Value], Meta(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None

    @property
    def window(self) -> int:
        """Seconds."""
        return int(self.completion_window[:-1]) * _SECONDS[self.completion_window[-1]]


class FileFields(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    rename={"anchor": "expires_after[anchor]", "seconds": "expires_after[seconds]"},
):
    """The fields of `POST /v1/files` beside the file."""

    purpose: Literal["batch"]
    anchor: Literal["created_at"] | None = None
    seconds: Annotated[int, Meta(ge=3600, le=30 * _DAY_S)] = 30 * _DAY_S


class FileQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`GET /v1/files?…`"""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


class BatchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`GET /v1/batches?…`"""

    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


T = TypeVar("T", File, Batch)


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Part of a list. has_more: there are others behind the last one."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, items: list[T], *, more: bool) -> Self:
        first, last = (items[0].id, items[-1].id) if items else (None, None)
        return cls(data=items, first_id=first, last_id=last, has_more=more)


class FileList(Page[File], frozen=True, kw_only=True): ...


class BatchList(Page[Batch], frozen=True, kw_only=True): ...


class DeletedFile(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
