# SPDX-License-Identifier: Apache-2.0
"""What the native endpoints have in common: `text` or `input_ids`, one prompt or many, and the names of the
answers.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar
from uuid import uuid4

from sgl_runtime.engine.prepare import check_count
from sgl_runtime.errors import InvalidRequest

T = TypeVar("T")

_MAX_RID = 256  # characters


class Prompts(NamedTuple):
    """`field`: where they came from; `many`: the user gave a list of them."""

    field: str
    prompts: list[str | list[int]]
    many: bool

    def source(self, index: int) -> str:
        return f"{self.field}[{index}]" if self.many else self.field


def prompts_of(text: str | list[str] | None, input_ids: list[int | list[int]] | None) -> Prompts:
    """Raises InvalidRequest unless there is exactly one of the two, with one kind of entries."""
    if (text is None) == (input_ids is None):
        raise InvalidRequest("give exactly one of text and input_ids", param="text")
    if isinstance(text, str):
        return Prompts("text", [text], False)
    if text is not None:
        if not text:
            raise InvalidRequest("text: the list of prompts is empty", param="text")
        check_count(len(text), "text")
        return Prompts("text", list(text), True)
    assert input_ids is not None, "one of the two is there"
    single = [entry for entry in input_ids if isinstance(entry, int)]
    lists = [entry for entry in input_ids if isinstance(entry, list)]
    if single and lists:
        raise InvalidRequest("input_ids: token ids and lists of token ids are mixed", param="input_ids")
    check_count(len(lists), "input_ids")
    return Prompts("input_ids", list(lists) if lists else [single], bool(lists))


def spread(value: T | list[T], field: str, prompts: int, many: bool) -> list[T]:
    """A field's value for each prompt."""
    if not isinstance(value, list):
        return [value] * prompts
    if not many:
        raise InvalidRequest(
            f"{field}: a list goes with a list of prompts, and there is one prompt", param=field
        )
    if len(value) != prompts:
        raise InvalidRequest(f"{field}: {len(value)} entries for {prompts} prompts", param=field)
    return value


def names(given: str | list[str] | None, prompts: int, many: bool) -> list[tuple[str, str]]:
    """For each prompt its id, and the rid by which it may be aborted."""
    if given is None:
        return [(name, name) for name in (uuid4().hex for _ in range(prompts))]
    rids = spread(given, "rid", prompts, many)
    if any(not 0 < len(rid) <= _MAX_RID for rid in rids):
        raise InvalidRequest(f"rid: a name has 1 to {_MAX_RID} characters", param="rid")
    if isinstance(given, str):
        return [(f"{given}-{i}" if many else given, given) for i in range(prompts)]
    if len(set(rids)) < prompts:
        raise InvalidRequest("rid: the names of the prompts must differ", param="rid")
    return [(rid, rid) for rid in rids]
