# SPDX-License-Identifier: Apache-2.0
"""Errors as answers: `{"error": {"message", "param"}}`, with OpenAI's further fields under /v1/, and in
Anthropic's shape under /v1/messages.

One place turns whatever an endpoint raises into a status and a body; endpoints only raise.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypedDict

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from sgl_runtime import log
from sgl_runtime.errors import NotFound, Overloaded, SglError

_logger = log.logger(__name__)
_RETRY_AFTER_S = "1"  # a place in the line is free when any request ends
_TOLD = 200  # characters of what the client made up are told back
_CLIENT_LEFT = 499  # nobody reads it; the access log does
_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    503: "overloaded_error",
}
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "overloaded_error",
}

_UNREADABLE = {
    400: "the request is no HTTP/1.1: its line, a header or the division of its body is malformed",
    431: "the request's line and headers are too large: send fewer or shorter ones",
    501: "the Transfer-Encoding is not known: send the body with Content-Length, or chunked",
}

Protocol: TypeAlias = Literal["native", "openai", "anthropic"]


class NativeFault(TypedDict):
    message: str
    param: str | None


class NativeError(TypedDict):
    error: NativeFault


class OpenAIFault(TypedDict):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(TypedDict):
    error: OpenAIFault


class AnthropicFault(TypedDict):
    type: str
    message: str


class AnthropicError(TypedDict):
    type: Literal["error"]
    error: AnthropicFault


SHAPES: dict[Protocol, Any] = {"native": NativeError, "openai": OpenAIError, "anthropic": AnthropicError}


def json_response(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def native_error(error: SglError) -> NativeError:
    return {"error": {"message": error.message, "param": error.param}}


def openai_error(error: SglError) -> OpenAIError:
    missing = isinstance(error, NotFound) and error.param == "model"
    return _openai(error.message, error.kind, error.param, code="model_not_found" if missing else None)


def anthropic_error(error: SglError) -> AnthropicError:
    return _anthropic(error.message, _ANTHROPIC_KINDS.get(error.status, "api_error"))


def error_response(request: Request, status: int, message: str, *, code: str | None = None) -> Response:
    """An error that is no SglError, in the shape of the request's protocol."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "internal_error")
    match protocol_of(request.scope["path"]):
        case "anthropic":
            return json_response(_anthropic(message, _ANTHROPIC_KINDS.get(status, "api_error")), status)
        case "openai":
            return json_response(_openai(message, kind, None, code), status)
        case "native":
            return json_response({"error": {"message": message, "param": None}}, status)


def refusal(status: int) -> bytes:
    """Of what cannot be read as a request: it has no path and so no protocol, and gets OpenAI's shape."""
    message = _UNREADABLE.get(status, "the server does not read such requests")
    return msgspec.json.encode(_openai(message, "invalid_request_error", None, None))


async def on_sgl_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SglError)
    render = {"native": native_error, "openai": openai_error, "anthropic": anthropic_error}
    response = json_response(render[protocol_of(request.scope["path"])](error), error.status)
    if isinstance(error, Overloaded):
        response.headers["retry-after"] = _RETRY_AFTER_S
    return response


async def on_http_error(request: Request, error: Exception) -> Response:
    """What the router refuses (404, 405) and a body that is too large (413)."""
    assert isinstance(error, HTTPException)
    where = f"{request.method[:_TOLD]} {request.scope['path'][:_TOLD]}"
    response = error_response(request, error.status_code, f"{where}: {error.detail}")
    response.headers.update(error.headers or {})
    if error.status_code == 405 and (methods := _methods(request)):
        response.headers["allow"] = ", ".join(sorted(methods))
    return response


def _methods(request: Request) -> set[str]:
    """Those of the request's path, which may be a route for each of them; none for a file of the page."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in matching for method in route.methods or ()}


async def on_client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLIENT_LEFT)


async def on_bug(request: Request, error: Exception) -> Response:
    """A mistake of ours; the server logs its traceback."""
    return error_response(
        request, 500, f"the server failed on this request ({type(error).__name__}); its log says more"
    )


def protocol_of(path: str) -> Protocol:
    """`path`: the scope's. A URL begins with the Host header, in which a client may write what it likes."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return "anthropic"
    return "openai" if path.startswith("/v1/") else "native"


def _openai(message: str, kind: str, param: str | None, code: str | None) -> OpenAIError:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _anthropic(message: str, kind: str) -> AnthropicError:
    return {"type": "error", "error": {"type": kind, "message": message}}
