# SPDX-License-Identifier: Apache-2.0
"""Server-sent events, against the decoder of the `openai` package and under every way to cut the bytes."""

from __future__ import annotations

import itertools

from hypothesis import example, given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from sgl_lang.backends._sse import events

# Text without line ends; U+2028 and U+0085 are ordinary characters here, whatever str.splitlines thinks.
_LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8)
_FIELD = st.sampled_from(["data: ", "data:", "data", ": ", "event: ", "id", "", "database: ", "data:  "])
_STREAM = st.lists(st.tuples(_FIELD, _LINE, st.sampled_from(["\n", "\r\n", "\n\n", "\r\n\r\n"])), max_size=12)


@given(_STREAM)
def test_what_the_openai_client_reads(lines):
    stream = "".join(field + text + end for field, text, end in lines).encode() + b"\n\n"
    expected = [event.data for event in SSEDecoder().iter_bytes(iter([stream])) if event.data]
    assert [data for data in events([stream]) if data] == expected


@given(_STREAM, st.lists(st.integers(0, 200)), st.sampled_from(["\r", "\n", "\r\n", None]))
@example([("data: ", "a", "\n"), ("data: ", "b", "\n\n")], list(range(40)), "\r\n")
def test_it_does_not_matter_how_the_bytes_are_cut(lines, cuts, line_end):
    stream = "".join(field + text + end for field, text, end in lines)
    if line_end is not None:
        stream = stream.replace("\r\n", "\n").replace("\n", line_end)
    data = stream.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    assert list(events(pieces)) == list(events([data]))


def test_data_is_joined_and_the_rest_skipped():
    stream = b": hello\n\ndata: {\ndata:  \xe4\xbd\xa0\xe2\x80\xa8\r\ndata\r\nevent: x\r\n\r\n"
    stream += b"\r\rdata:1\r\rdata: cut off"
    assert list(events([stream])) == ["{\n 你\u2028\n", "1"]
    assert list(events([b"data: 1\r\r"])) == list(events([b"data: 1\r", b"\r"])) == ["1"]
    assert list(events([])) == []
