# SPDX-License-Identifier: Apache-2.0
"""`GET /`: a page for people, and its files under `/page/`. It asks the same endpoints as any other client.

The files are those of the package, the same on every server: what a page shows of this one comes through the
endpoints. The browser may load them from here only, speak to here only, and make no markup of strings.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from sgl_runtime.http.operation import operation

FOLDER = "/page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "cache-control": "no-cache",  # kept, and asked after: a file's name does not change with its content
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class PageFiles(StaticFiles):
    def __init__(self) -> None:
        # Some installers make links of a package's files.
        super().__init__(directory=Path(__file__).parent / "static", follow_symlink=True)

    async def get_response(self, path: str, scope: MutableMapping[str, Any]) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


@operation(answers="text/html")
async def page(files: PageFiles, request: Request) -> Response:
    """The page for people. It loads its files from `/page/` and asks the endpoints of this server."""
    return await files.get_response("index.html", request.scope)


def is_page(path: str) -> bool:
    """Whether a request's path is that of the page or of its files."""
    return path == "/" or path.startswith(FOLDER + "/")
