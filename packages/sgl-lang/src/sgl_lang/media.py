# SPDX-License-Identifier: Apache-2.0
"""`Image` and `Video`: what a prompt shows beside its text, as values that any backend can send.

What lies on this machine is read when the value is made, so that a missing file is found at the line that
names it. What lies behind a URL is left to the backend, which may fetch it from where it runs. Nothing is
decoded here.
"""

from __future__ import annotations

import base64
import io
import mimetypes
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from sgl_lang.errors import ProgramError

_URL = ("http://", "https://", "gs://")
# How files of these kinds begin. https://mimesniff.spec.whatwg.org/#matching-an-image-type-pattern
_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: its bytes as in a file, or the URL where it is; exactly one of the two."""

    data: bytes | None = field(default=None, repr=False)
    url: str | None = None
    mime: str = "image/png"

    @property
    def base64(self) -> str:
        """The bytes in base64. Only where `data` is there."""
        assert self.data is not None, "an image behind a URL has no bytes here"
        return base64.b64encode(self.data).decode()

    @property
    def location(self) -> str:
        """The URL, or the bytes as one: `data:image/png;base64,...`."""
        return self.url if self.url is not None else f"data:{self.mime};base64,{self.base64}"


@dataclass(frozen=True, slots=True)
class Video:
    """A film's bytes as in its file, of which the model sees `num_frames` pictures, evenly spaced."""

    data: bytes = field(repr=False)
    num_frames: int
    mime: str = "video/mp4"

    @property
    def location(self) -> str:
        """The bytes as a URL: `data:video/mp4;base64,...`."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"


Media: TypeAlias = Image | Video


def image_of(source: object) -> Image:
    """An image from a path, a URL (http, https, gs, data), the bytes of a file, or a PIL image.

    Raises ProgramError for a file that cannot be read, and for what is no image.
    """
    if isinstance(source, Image):
        return source
    if isinstance(source, str) and source.startswith("data:"):
        return _from_data_url(source)
    if isinstance(source, str) and source.lower().startswith(_URL):
        return Image(url=source, mime=mimetypes.guess_type(source.split("?")[0])[0] or "image/jpeg")
    if isinstance(source, bytes | bytearray):
        return Image(data=bytes(source), mime=_sniff(bytes(source)))
    if isinstance(source, str | os.PathLike):
        data = _read(source, "image")
        return Image(data=data, mime=_sniff(data))
    save = getattr(source, "save", None)
    if callable(save) and hasattr(source, "mode"):  # as PIL's do
        file = io.BytesIO()
        save(file, format="PNG")
        return Image(data=file.getvalue(), mime="image/png")
    raise ProgramError(
        f"image() takes a path, a URL, the bytes of a file or a PIL image, not {type(source).__name__}"
    )


def video_of(path: str | os.PathLike[str], num_frames: int) -> Video:
    """A video from a file. Raises ProgramError if it cannot be read or `num_frames` is not at least 1."""
    if not isinstance(path, str | os.PathLike):
        raise ProgramError(f"video() takes the path of a file, not {type(path).__name__}")
    if type(num_frames) is not int or num_frames < 1:
        raise ProgramError(f"video(): num_frames must be an int of at least 1, not {num_frames!r}")
    return Video(_read(path, "video"), num_frames, mimetypes.guess_type(os.fspath(path))[0] or "video/mp4")


def _read(path: str | os.PathLike[str], what: str) -> bytes:
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ProgramError(f"{what}(): {os.fspath(path)!r} cannot be read: {error}") from None
    if not data:
        raise ProgramError(f"{what}(): {os.fspath(path)!r} is an empty file")
    return data


def _sniff(data: bytes) -> str:
    for beginning, mime in _BEGINNINGS:
        if data.startswith(beginning):
            return mime
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ProgramError("image(): these bytes are no PNG, JPEG, GIF, WebP or BMP file")


def _from_data_url(url: str) -> Image:
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ProgramError("image(): a data URL must look like data:image/png;base64,...")
    try:
        data = base64.b64decode(body, validate=True)
    except ValueError:
        raise ProgramError("image(): the data URL is no valid base64") from None
    mime = head.removeprefix("data:").removesuffix(";base64") or _sniff(data)
    if not data or not mime.startswith("image/"):
        raise ProgramError(f"image(): the data URL holds {mime if data else 'nothing'}, which is no image")
    return Image(data=data, mime=mime)
