# SPDX-License-Identifier: Apache-2.0
"""`Authorization: Bearer <key>`, or Anthropic's `x-api-key: <key>`, on every request but `/health`.

A browser that opens the page cannot send either, but asks a person for a password: there, the key is the
password of `Authorization: Basic`, under any name. A browser goes on to send it by itself, also when another
site's page makes it ask, so beyond the page it counts only beside a header that no other site's page can add
without asking first (a preflight, which only --cors-allow-origins answers).
"""

from __future__ import annotations

import binascii
import secrets
from base64 import b64decode

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sgl_runtime.http.errors import error_response
from sgl_runtime.http.page import is_page

_PROOF = b"x-requested-with"  # with any value

OPEN = frozenset({"/health"})  # paths that need no key


class BearerKey:
    """ASGI middleware; compares in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._admits(scope):
            response = error_response(
                Request(scope),
                401,
                "the key is missing or wrong: send the server's --api-key as 'Authorization: Bearer <key>'"
                " (in a browser: as the password, with any name)",
                code="invalid_api_key",
            )
            basic = 'Basic realm="sgl-runtime", charset="UTF-8"'
            response.headers["www-authenticate"] = basic if is_page(scope["path"]) else "Bearer"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        if scope["path"] in OPEN:
            return True
        headers = [(name.lower(), value) for name, value in scope["headers"]]
        by_page = is_page(scope["path"]) or any(name == _PROOF for name, _ in headers)
        given = [(name, value) for name, value in headers if name in (b"authorization", b"x-api-key")]
        keys = [_key(value, by_page) if name == b"authorization" else value for name, value in given]
        right = [key is not None and secrets.compare_digest(key, self._key) for key in keys]
        return len({name for name, _ in given}) == len(given) > 0 and all(right)


def _key(authorization: bytes, by_page: bool) -> bytes | None:
    """The key in a header's value; None: there is none that counts."""
    scheme, _, value = authorization.partition(b" ")
    if scheme == b"Bearer":
        return value
    if scheme == b"Basic" and by_page:
        try:
            return b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return None
    return None
