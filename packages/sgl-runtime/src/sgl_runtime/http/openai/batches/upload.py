# SPDX-License-Identifier: Apache-2.0
"""`Upload`: a multipart body, piece by piece, into one file and a few short fields.

Never holds more than a piece of the file. What exceeds the size is counted and dropped, so that the body can
be read to its end. Every method blocks. Knows no HTTP, nor what the fields mean.
"""

from __future__ import annotations

import os
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sgl_runtime.errors import InvalidRequest

_MAX_FIELD = 4096  # bytes of a field's value, and characters of a file's name
_MAX_FIELDS = 16
FORM_SIZE = 2**20  # bytes that a form of so many fields may have beside its file


class Upload:
    def __init__(self, path: Path, content_type: str, *, max_bytes: int) -> None:
        """`path`: where the part called `file` goes; `content_type`: the header's. Raises InvalidRequest,
        OSError.
        """
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequest(
                f"the body must be multipart/form-data with its boundary, not {content_type[:100]!r}"
            )
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0  # of the file as it was sent
        self._max_bytes = max_bytes
        self._path = path
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._part: str | None = None  # the field that is being read; None: the file
        self._value = b""
        self._ended = False
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(f"the body is no multipart/form-data: {error}") from None
        self._file = path.open("xb", buffering=0)

    def feed(self, data: bytes) -> None:
        """Raises InvalidRequest for what is no form, or not this one; OSError."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(f"the body is no multipart/form-data: {error}") from None

    def finish(self) -> str:
        """The body has ended, and its file is on the disk: its name. Raises InvalidRequest, OSError."""
        if not self._ended:
            raise InvalidRequest("the body ends before its last boundary: a part of it is missing")
        if self.filename is None:
            raise InvalidRequest("file: required field is missing", param="file")
        os.fsync(self._file.fileno())
        self._file.close()
        return self.filename

    def discard(self) -> None:
        """Leave nothing, unless somebody has taken it."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    # -- what the parser finds

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._headers = {}
        name = _text(options.get(b"name", b""), "the name of a field")
        if name == "file":
            self._begin_file(options.get(b"filename"))
        elif name in self.fields or not name:
            raise InvalidRequest(
                f"{name[:100] or 'a part'}: it must have a name, and come once", param=name[:100] or None
            )
        elif len(self.fields) == _MAX_FIELDS:
            raise InvalidRequest(f"the form has more than {_MAX_FIELDS} fields")
        else:
            self._part = name

    def _begin_file(self, name: bytes | None) -> None:
        if self.filename is not None:
            raise InvalidRequest("file: one file a request", param="file")
        if name is None:
            raise InvalidRequest("file: it must be sent as a file, with a filename", param="file")
        if len(name) > _MAX_FIELD:
            raise InvalidRequest(f"file: its filename has more than {_MAX_FIELD} bytes", param="file")
        self._part, self.filename = None, _text(name, "file")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part is None:
            self.size += end - start
            if self.size <= self._max_bytes:
                self._write(memoryview(data)[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD:
            raise InvalidRequest(f"{self._part[:100]}: more than {_MAX_FIELD} bytes", param=self._part[:100])

    def _write(self, data: memoryview) -> None:
        while data:
            data = data[self._file.write(data) :]

    def _on_part_end(self) -> None:
        if self._part is not None:
            self.fields[self._part] = _text(self._value, self._part[:100])
        self._value = b""

    def _on_end(self) -> None:
        self._ended = True


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{what}: invalid UTF-8", param=what) from None
