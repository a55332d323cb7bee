# SPDX-License-Identifier: Apache-2.0
"""Which web pages may ask. A browser sends a server on its own machine whatever any page tells it to, and a
server without a key has no other way to know.

*Whose page is it?* A request that changes something must not come from another site's. `Sec-Fetch-Site` says
so; where a browser leaves it out (an old one, or over plain HTTP to another machine), the host in `Origin`
must be the one that was asked: that in `Host`, or, behind a proxy that writes its own there, that in
`X-Forwarded-Host` or `Forwarded`. No page can add these to a request for another site without asking first,
and that CORS refuses. Programs send neither `Sec-Fetch-Site` nor `Origin`, and are not asked.

*By what name?* A page may have its name mean another address once it is loaded (DNS rebinding), and is of the
same site then. But `Host` has that name: so a server for this machine alone answers to addresses and to its
own names.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sgl_runtime.config import ServeConfig
from sgl_runtime.http.errors import error_response

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_UNSAFE = frozenset({"/flush_cache"})  # paths at which these change something, too
_TOLD = 100  # characters of a header are told back
_FORWARDED = re.compile(rb'(?:^|[;,])\s*host="?([^";,\s]*)', re.IGNORECASE)


class Sites:
    """ASGI middleware. `origins`: whose pages may do everything, or "*"; `hosts`: names that the server has
    beside addresses and localhost, None: any.
    """

    def __init__(self, app: ASGIApp, *, origins: Collection[str], hosts: Collection[str] | None) -> None:
        self._app = app
        self._origins = origins
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (why := self._misnamed(scope) or self._foreign(scope)) is not None:
            await error_response(Request(scope), 403, why)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _misnamed(self, scope: Scope) -> str | None:
        """Why it is asked by a name that is not its own; None if it is not."""
        if self._hosts is None:
            return None
        wrong = [host for host in _values(scope, b"host") if not self._is_own(_name(host))]
        if not wrong:
            return None
        told = wrong[0][:_TOLD].decode("latin-1")
        return (
            f"Host: {told!r} is no name of this server: ask for it as localhost or by its address, or start"
            " it with --allowed-hosts and this name"
        )

    def _is_own(self, name: str) -> bool:
        if name in ("", "localhost") or name.endswith(".localhost") or name in (self._hosts or ()):
            return True
        try:
            ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _foreign(self, scope: Scope) -> str | None:
        """Why it is the request of a page that may not make it; None if it is not."""
        if scope["method"] in _SAFE and scope["path"] not in _UNSAFE:
            return None
        origins = [origin.decode("latin-1") for origin in _values(scope, b"origin")]
        if "*" in self._origins or (origins and all(origin in self._origins for origin in origins)):
            return None
        if sites := _values(scope, b"sec-fetch-site"):
            foreign = b"cross-site" in sites
        else:
            asked = _asked(scope)
            foreign = any(
                _name(origin.partition("://")[2].encode("latin-1")) not in asked for origin in origins
            )
        if not foreign:
            return None
        whose = f"a page of {origins[0][:_TOLD]!r}" if origins else "a page of another site"
        return (
            f"{whose} made this request: to let it, start the server with --cors-allow-origins and its"
            " origin; a proxy in between must leave Host as it is, or say it in X-Forwarded-Host"
        )


def own_hosts(config: ServeConfig) -> Collection[str] | None:
    """The names that a server has beside addresses and localhost; None: whatever it is called.

    Who has the key, or a certificate for the name, is no page of somebody else's, and no browser speaks to a
    Unix socket. A server for others cannot know what they call it.
    """
    if "*" in config.allowed_hosts:
        return None
    exposed = config.api_key is None and config.ssl_certfile is None and config.uds is None
    if config.allowed_hosts or (exposed and _is_local(config.host)):
        return frozenset(name.lower() for name in (config.host, *config.allowed_hosts))
    return None


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _asked(scope: Scope) -> set[str]:
    """What the server was called by who asked, as far as that is told."""
    forwarded = [host.strip() for value in _values(scope, b"x-forwarded-host") for host in value.split(b",")]
    forwarded += [host for value in _values(scope, b"forwarded") for host in _FORWARDED.findall(value)]
    return {name for host in (*_values(scope, b"host"), *forwarded) if (name := _name(host))}


def _values(scope: Scope, header: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name.lower() == header]


def _name(host: bytes) -> str:
    """`host`, without its port."""
    text = host.decode("latin-1").lower()
    name = text[: text.find("]") + 1] if text.startswith("[") else text.partition(":")[0]
    return name.rstrip(".")
