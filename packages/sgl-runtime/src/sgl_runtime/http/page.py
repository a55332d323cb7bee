# SPDX-License-Identifier: Apache-2.0
"""`GET /`: a page for people, and its files under `/page/`. It asks the same endpoints as any other client.

The files are those of the package, the same on every server: what a page shows of this one comes through the
endpoints. The browser may load them from here only, speak to here only, and make no markup of strings.
"""

from __future__ import annotations

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from sgl_runtime.http.api import Api
from sgl_runtime.http.operation import operation

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

_FOLDER = Path(__file__).parent / "static"
_NAMES = frozenset(file.name for file in _FOLDER.iterdir())
# Some installers make links of a package's files.
_FILES = StaticFiles(directory=_FOLDER, follow_symlink=True)


@operation(answers="text/html")
async def page(api: Api, request: Request) -> Response:
    """The page for people. It loads its files from `/page/` and asks the endpoints of this server."""
    return await _file("index.html", request)


@operation(answers="*/*", refuses={404: "The page has no such file."})
async def page_file(api: Api, request: Request) -> Response:
    """A file of the page."""
    return await _file(request.path_params["name"], request)


async def _file(name: str, request: Request) -> Response:
    """With its validators, or 304 to a request that has them."""
    if name not in _NAMES:
        raise HTTPException(404)
    response = await _FILES.get_response(name, request.scope)
    response.headers.update(_HEADERS)
    return response


def is_page(path: str) -> bool:
    """Whether a request's path is that of the page or of its files."""
    return path == "/" or path.startswith("/page/")
