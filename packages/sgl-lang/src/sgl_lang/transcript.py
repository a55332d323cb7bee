# SPDX-License-Identifier: Apache-2.0
"""`Transcript`: what has been said so far, as text and as turns; every change makes a new value.

Because it is a value, a reader in another thread always sees a whole one, and a prompt is just the transcript
of that moment. The file does not know who adds to it, nor when.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from sgl_lang.chat import ChatTemplate, Markup
from sgl_lang.ir import Role


class Message(NamedTuple):
    """One turn, without markup."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text with its markup; the turns that are over; and the turn that is open, if one is."""

    text: str = ""
    closed: tuple[Message, ...] = ()
    role: Role | None = None  # of the open turn
    start: int = 0  # where the open turn's own words begin in `text`

    def add(self, text: str) -> Transcript:
        """Somebody says `text`."""
        return replace(self, text=self.text + text)

    def begin(self, role: Role, template: ChatTemplate) -> Transcript:
        """Open a turn. A conversation without a system prompt begins with the template's, if that has one."""
        assert self.role is None, "a turn begins inside a turn"
        before = self
        if not self.closed and role != "system" and template.default_system is not None:
            before = self.begin("system", template).add(template.default_system).end(template)
        text = before.text + before._markup(role, template).begin
        return replace(before, text=text, role=role, start=len(text))

    def end(self, template: ChatTemplate) -> Transcript:
        """Close the open turn."""
        assert self.role is not None, "no turn is open"
        text = self.text + self._markup(self.role, template).end
        return Transcript(text=text, closed=self.messages)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns so far; the last one may be still open."""
        if self.role is None:
            return self.closed
        return (*self.closed, Message(self.role, self.text[self.start :]))

    def _markup(self, role: Role, template: ChatTemplate) -> Markup:
        return template.markup(role, self.closed[-1].role if self.closed else None)
