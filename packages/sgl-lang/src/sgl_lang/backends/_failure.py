# SPDX-License-Identifier: Apache-2.0
"""`Failure`: what went wrong with one attempt at a server; `Patience`: whether and when another one follows.

The exceptions of clients and HTTP libraries hold the request, and with it the key. So they end here: what is
raised is a `BackendError` with the other side's words, out of which `redact` takes whatever looks like a key.
"""

from __future__ import annotations

import json
import logging
import random
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from sgl_lang.errors import BackendError, ProgramError

_log = logging.getLogger("sgl_lang")
_AGAIN = frozenset({408, 409, 425, 429})  # and everything from 500 on
_FIRST_S = 0.5
_LONGEST_S = 16.0
_MOST_WORDS = 1000

# Keys of OpenAI and Anthropic, of Google, Google's access tokens, JSON web tokens, bearer tokens.
_KEYS = re.compile(
    r"sk-[\w*-]{6,}|AIza[\w-]{20,}|ya29\.[\w.-]{10,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
    r"|(?i:(?<=bearer ))[\w.~+/=-]{6,}"
)
_SHORTEST_SECRET = 8  # what is shorter, such as "EMPTY", is a word


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt.

    Attributes:
        message: the other side's words.
        status: the HTTP status, where there was one.
        again: another attempt may succeed.
        after: how long the other side asks to wait before that, in seconds.
    """

    message: str
    status: int | None = None
    again: bool = False
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and after what pauses a call is repeated. ProgramError for less than no repetition.

    Attributes:
        retries: how often a call is repeated that failed for a passing reason.
        longest: the longest pause before a repetition, in seconds; when more is asked for, the call fails.
        secrets: keys that no message may hold.
    """

    retries: int
    longest: float
    secrets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ProgramError(f"max_retries must be 0 or more, not {self.retries}")

    def pause(self, failure: Failure, attempt: int) -> float:
        """Seconds before the attempt after `attempt` (0 is the first); a warning says so.

        Raises BackendError when there is none. To be called outside of any `except`, or the error would drag
        along the one that holds the request.
        """
        message = redact(failure.message, self.secrets)
        seconds = pause(failure, attempt, longest=self.longest)
        if not failure.again or attempt >= self.retries:
            tries = f" (tried {attempt + 1} times)" if failure.again and attempt else ""
            raise BackendError(message + tries, status=failure.status, retry_after=failure.after)
        if seconds > self.longest:
            raise BackendError(
                f"{message} (it asks to wait {seconds:.0f} s; max_wait={self.longest:g} allows less)",
                status=failure.status,
                retry_after=failure.after,
            )
        _log.warning("%s; trying again in %.1f s", message, seconds)
        return seconds


def answered(status: int, message: str, headers: Mapping[str, str]) -> Failure:
    """The failure that an HTTP response means; `x-should-retry`, where a vendor sends it, knows better."""
    advice = {"true": True, "false": False}.get(headers.get("x-should-retry", ""))
    return Failure(
        message=f"answered {status}: {message}",
        status=status,
        again=(status in _AGAIN or status >= 500) if advice is None else advice,
        after=retry_after(headers),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by `retry-after-ms`, or by `Retry-After`: seconds or a date (RFC 9110 §10.2.3).

    None if there is neither, or nothing that can be read.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is not None and re.fullmatch(r"\s*\d+(\.\d*)?\s*", value):
            return float(value) / unit
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


def pause(failure: Failure, attempt: int, *, longest: float = _LONGEST_S) -> float:
    """Seconds before the attempt after `attempt` (0 is the first).

    What the other side asks for, however long; else doubling from half a second to sixteen, or to `longest`,
    less up to a quarter at random, so that many programs that failed together do not return together.
    """
    if failure.after is not None:
        return failure.after
    seconds = min(_FIRST_S * 2.0 ** min(attempt, 10), _LONGEST_S, longest)
    return seconds * (1 - 0.25 * random.random())


def transport_errors() -> tuple[type[Exception], ...]:
    """What those HTTP libraries raise that are loaded; which one a vendor's client uses is its affair."""
    names = {"httpx": "TransportError", "httpx2": "TransportError", "aiohttp": "ClientError"}
    loaded = (getattr(sys.modules.get(library), name, None) for library, name in names.items())
    return (
        TimeoutError,
        ConnectionError,
        json.JSONDecodeError,
        *(kind for kind in loaded if kind is not None),
    )


def lost(error: Exception) -> Failure:
    """The failure that an error of the transport means: no connection, a broken one, silence, or noise."""
    if isinstance(error, json.JSONDecodeError):
        return Failure(f"does not answer in JSON: {error.doc:.200}", again=True)
    kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
    if "Timeout" in kinds:
        return Failure("did not answer in time", again=True)
    words = str(error) or type(error).__name__
    cause = error.__cause__
    if cause is not None and str(cause) and str(cause) not in words:
        words = f"{words.rstrip('.')}: {cause}"
    return Failure(f"cannot be reached or broke off: {words}", again=True)


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` without these secrets and without what looks like a key; no longer than an error needs to be."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "<key>")
    text = _KEYS.sub("<key>", text)
    return text if len(text) <= _MOST_WORDS else text[:_MOST_WORDS] + " ..."
