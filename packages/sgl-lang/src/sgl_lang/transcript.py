# SPDX-License-Identifier: Apache-2.0
"""`Transcript`: what has been said so far, as text and as turns; every change makes a new value.

Because it is a value, a reader in another thread always sees a whole one, a fork begins with its parent's,
and a prompt is just the transcript of that moment. The file does not know who adds to it, nor when.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from sgl_lang.chat import ChatTemplate, Markup
from sgl_lang.ir import Role
from sgl_lang.media import Image, Media

Content: TypeAlias = str | tuple[str | Media, ...]


class Message(NamedTuple):
    """One turn, without markup. Its content is a str, or, with images or videos in it, a tuple in order."""

    role: str
    content: Content

    def openai(self) -> dict[str, Any]:
        """The turn in OpenAI's format: `{"role": ..., "content": ...}`, images as data URLs."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        return {"role": self.role, "content": [_openai(piece) for piece in self.content]}


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text with its markup; the turns that are over; and the turn that is open, if one is.

    `media` are the images and videos in the order of their tokens in `text`; those of the open turn, or of a
    text without turns, are repeated in `shown` with the positions of their tokens. `stray`: something was
    said outside of all turns.
    """

    text: str = ""
    closed: tuple[Message, ...] = ()
    role: Role | None = None  # of the open turn
    start: int = 0  # where the open turn's own words begin in `text`
    media: tuple[Media, ...] = ()
    shown: tuple[tuple[int, int, Media], ...] = ()  # from, to: the span of its token in `text`
    stray: bool = False

    def add(self, text: str) -> Transcript:
        """Somebody says `text`."""
        stray = self.stray or (self.role is None and bool(text))
        # Spelled out: done twice for each generation, and replace() takes three times as long.
        return Transcript(self.text + text, self.closed, self.role, self.start, self.media, self.shown, stray)

    def show(self, media: Media, template: ChatTemplate) -> Transcript:
        """Somebody shows a picture or a film."""
        token = template.image_token
        span = (len(self.text), len(self.text) + len(token), media)
        return replace(self.add(token), media=(*self.media, media), shown=(*self.shown, span))

    def begin(self, role: Role, template: ChatTemplate) -> Transcript:
        """Open a turn. A conversation without a system prompt begins with the template's, if that has one."""
        assert self.role is None, "a turn begins inside a turn"
        before = self
        if not self.closed and role != "system" and template.default_system is not None:
            before = self.begin("system", template).add(template.default_system).end(template)
        text = before.text + before._markup(role, template).begin
        return replace(before, text=text, role=role, start=len(text), shown=())

    def end(self, template: ChatTemplate) -> Transcript:
        """Close the open turn."""
        assert self.role is not None, "no turn is open"
        text = self.text + self._markup(self.role, template).end
        return replace(self, text=text, closed=self.messages, role=None, start=0, shown=())

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns so far; the last one may be still open."""
        if self.role is None:
            return self.closed
        return (*self.closed, Message(self.role, self.content))

    @property
    def content(self) -> Content:
        """What the open turn, or a text without turns, says and shows."""
        if not self.shown:
            return self.text[self.start :]
        return self.since(self.start)

    def since(self, position: int) -> tuple[str | Media, ...]:
        """What was said and shown after `position` of the text, if that is not before the open turn."""
        pieces: list[str | Media] = []
        for begin, end, media in self.shown:
            if begin >= position:
                pieces += [self.text[position:begin], media]
                position = end
        pieces.append(self.text[position:])
        return tuple(piece for piece in pieces if piece != "")

    def _markup(self, role: Role, template: ChatTemplate) -> Markup:
        return template.markup(role, self.closed[-1].role if self.closed else None)


def _openai(piece: str | Media) -> dict[str, Any]:
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    kind = "image_url" if isinstance(piece, Image) else "video_url"
    return {"type": kind, kind: {"url": piece.location}}
