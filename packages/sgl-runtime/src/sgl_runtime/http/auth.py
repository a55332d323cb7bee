# SPDX-License-Identifier: Apache-2.0
"""`Authorization: Bearer <key>`, or Anthropic's `x-api-key: <key>`, on every request but `/health`."""

from __future__ import annotations

import secrets

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sgl_runtime.http.errors import error_response

OPEN = frozenset({"/health"})  # paths that need no key


class BearerKey:
    """ASGI middleware; compares in constant time."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = {b"authorization": f"Bearer {key}".encode(), b"x-api-key": key.encode()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._admits(scope):
            response = error_response(
                Request(scope),
                401,
                "the key is missing or wrong: send the server's --api-key as 'Authorization: Bearer <key>'",
                code="invalid_api_key",
            )
            response.headers["www-authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        if scope["path"] in OPEN:
            return True
        given = [(name.lower(), value) for name, value in scope["headers"] if name.lower() in self._expected]
        names = {name for name, _ in given}
        right = [secrets.compare_digest(value, self._expected[name]) for name, value in given]
        return len(names) == len(given) > 0 and all(right)
