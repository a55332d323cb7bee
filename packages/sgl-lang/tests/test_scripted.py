# SPDX-License-Identifier: Apache-2.0
"""The backend of canned answers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_lang import BackendError, Prompt, SamplingParams, Scripted, function, gen


def say(backend: Scripted, name: str | None) -> str:
    return backend.generate(Prompt("r", "", name=name), SamplingParams()).text


def test_answers_by_name_in_order():
    backend = Scripted({"a": "always", "b": ["first", "second"], "": "unnamed"})
    assert [say(backend, name) for name in ("a", "b", "a", "b", None)] == [
        "always",
        "first",
        "always",
        "second",
        "unnamed",
    ]
    with pytest.raises(BackendError, match="no answer for generation 3 of 'b'"):
        say(backend, "b")
    with pytest.raises(BackendError, match="no answer for generation 1 of 'c'"):
        say(backend, "c")
    assert [call.prompt.name for call in backend.calls] == ["a", "b", "a", "b", None, "b", "c"]


def test_errors_are_raised_and_stay_as_they_were_written():
    planned = BackendError("busy", status=503)
    backend = Scripted({"a": [planned, "then fine"]})

    @function
    def program(s):
        s += gen("a")

    error = program.run(backend=backend).error()
    assert (str(error), error.status) == ("busy", 503)
    assert error is not planned
    assert not hasattr(planned, "__notes__")
    assert program.run(backend=backend)["a"] == "then fine"


@given(st.text(max_size=30))
def test_streaming_grows_to_the_whole_answer(answer):
    texts = [c.text for c in Scripted({"a": answer}).stream(Prompt("r", "", name="a"), SamplingParams())]
    assert (texts or [""])[-1] == answer
    assert all(after.startswith(before) and after != before for before, after in itertools.pairwise(texts))
