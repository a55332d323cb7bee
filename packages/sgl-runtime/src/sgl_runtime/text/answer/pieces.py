# SPDX-License-Identifier: Apache-2.0
"""The pieces of an answer, and the rule about the white space between them."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Literal, TypeAlias

import msgspec


class Text(msgspec.Struct, frozen=True):
    """Goes on what the answer says to the user."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """Goes on what the model thinks before it answers."""

    text: str


class Call(msgspec.Struct, frozen=True):
    """Begins a call of the tool of that name."""

    name: str


class Arguments(msgspec.Struct, frozen=True):
    """Goes on the arguments of the last call: a JSON object, unless the model broke off or got it wrong."""

    text: str


Piece: TypeAlias = Text | Reasoning | Call | Arguments
Reading: TypeAlias = Generator[Piece | None, None, None]  # None: waits for more text


def tidied(reading: Reading) -> Reading:
    """The same without white space where reasoning, text and calls meet. An answer that is text alone stays
    as it is, to the last blank.
    """
    kind: type[Text | Reasoning] = Text
    begins = False  # a text begins behind something else
    held = ""  # white space that may be the last of a text
    for piece in reading:
        if not isinstance(piece, Text | Reasoning):
            if piece is not None:
                held, begins = "", True
            yield piece
            continue
        if not isinstance(piece, kind):
            kind, held, begins = type(piece), "", True
        text = held + piece.text
        text = text.lstrip() if begins else text
        body = text.rstrip()
        held = text[len(body) :]
        if body:
            begins = False
            yield kind(body)
    if held and kind is Text:
        yield Text(held)


class Part(msgspec.Struct):
    """Pieces that belong together: a text, reasoning, or a call with its arguments as `text`."""

    kind: Literal["text", "reasoning", "call"]
    text: str
    name: str = ""  # of the tool that is called


def parts_of(pieces: Iterable[Piece]) -> list[Part]:
    """The pieces of a whole answer, put together."""
    parts: list[Part] = []
    for piece in pieces:
        if (part := part_begun(piece, parts[-1] if parts else None)) is not None:
            parts.append(part)
        if not isinstance(piece, Call):
            parts[-1].text += piece.text
    return parts


def part_begun(piece: Piece, last: Part | None) -> Part | None:
    """The part that begins with this piece, still without text; None if it belongs to the `last` one."""
    match piece:
        case Call(name):
            return Part("call", "", name)
        case Text() if last is None or last.kind != "text":
            return Part("text", "")
        case Reasoning() if last is None or last.kind != "reasoning":
            return Part("reasoning", "")
        case _:
            return None
