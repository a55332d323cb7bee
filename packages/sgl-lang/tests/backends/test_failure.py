# SPDX-License-Identifier: Apache-2.0
"""What a failed attempt means: when to try again, and what of it may be said."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from sgl_lang.backends._failure import Failure, answered, pause, redact, retry_after


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


def test_retry_after_as_a_date():
    headers = {"retry-after": formatdate(time.time() + 30, usegmt=True)}
    assert 28 < (retry_after(headers) or 0) <= 30


def test_pauses_double_up_to_a_limit_and_differ():
    failure = Failure("busy", again=True)
    for attempt, longest in enumerate((0.5, 1, 2, 4, 8, 16, 16, 16)):
        pauses = [pause(failure, attempt) for _ in range(50)]
        assert all(0.75 * longest <= seconds <= longest for seconds in pauses)
        assert len(set(pauses)) > 1
    assert pause(failure, 10_000) <= 16
    assert pause(Failure("busy", again=True, after=3), 5) == 3
    assert pause(failure, 10, longest=0.25) <= 0.25


@pytest.mark.parametrize(
    ("status", "headers", "again"),
    [
        *((status, {}, True) for status in (408, 409, 429, 500, 502, 503, 504, 529)),
        *((status, {}, False) for status in (400, 401, 403, 404, 413, 422)),
        (429, {"x-should-retry": "false"}, False),
        (400, {"x-should-retry": "true"}, True),
    ],
)
def test_which_answers_are_worth_another_attempt(status, headers, again):
    assert answered(status, "words", headers).again is again


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcDEF_123-456",
        "sk-ant-api03-abc_DEF-123",
        "sk-abc***********************xyz",
        "AIzaSyA1234567890abcdefghijk_lmnopqrstu",
        "ya29.a0AfH6SMBx-1234567890",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.sig-nature_",
    ],
)
def test_keys_are_taken_out_by_their_looks(key):
    assert redact(f"the key {key} is wrong", ()) == "the key <key> is wrong"
    assert redact(f"{{'authorization': 'Bearer {key}'}}", ()).count("<key>") == 1


def test_keys_are_taken_out_by_name():
    assert redact("hunter2hunter2 is no key", ("hunter2hunter2",)) == "<key> is no key"
    assert redact("Bearer hunter2hunter2", ()) == "Bearer <key>"
    assert redact("the answer is EMPTY", ("EMPTY", "")) == "the answer is EMPTY"
    assert len(redact("x" * 5000, ())) < 1100
