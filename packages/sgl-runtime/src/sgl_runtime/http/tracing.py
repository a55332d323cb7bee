# SPDX-License-Identifier: Apache-2.0
"""OpenTelemetry: a span for every request to the model, in the words of its conventions for GenAI.

Sizes, times and parameters, and no text of anybody's. Loaded only where `--otlp-traces-endpoint` asks for it,
since it needs the extra `otel`. A span is made when its request has ended: nothing is done while tokens come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgl_runtime.engine.figures import ending
from sgl_runtime.engine.prefill import prompt_tokens
from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.engine.stream import Stream

_GENERATING = {
    "/generate": "text_completion",
    "/v1/completions": "text_completion",
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
}
# The conventions have a name for the first of these alone.
_PREFILLING = {
    "/v1/embeddings": "embeddings",
    "/encode": "embeddings",
    "/v1/classify": "classify",
    "/v1/score": "score",
    "/v1/decisions": "decide",
}
_OPERATIONS = _GENERATING | _PREFILLING
_FLUSH_S = 3.0  # for the last spans to leave
_ATTRIBUTES: ContextVar[dict[str, Any]] = ContextVar("attributes")  # of the span of the request at hand


class Traces:
    """Of one api process: an observer of its engine client, and middleware around all of its application, for
    what that refuses has a span as well.
    """

    def __init__(self, processor: SpanProcessor, model: str) -> None:
        """`model`: its name in every span."""
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "sgl-runtime"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("sgl_runtime", version("sgl-runtime"))
        self._propagator = TraceContextTextMapPropagator()
        self._model = model

    def write(self, request: PreparedRequest, streams: Sequence[Stream]) -> None:
        """The engine has done with a request."""
        if (attributes := _ATTRIBUTES.get(None)) is None:
            return
        if attributes["url.path"] in _GENERATING:
            attributes.update(_parameters(request))
            attributes["gen_ai.usage.input_tokens"] = sum(len(prompt.tokens) for prompt in request.prompts)
        else:
            attributes.update(_counted(request))
        attributes.update(_usage(streams))
        attributes.update(_latencies(streams))

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, with a span for every request to the model."""

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] not in _OPERATIONS:
                await app(scope, receive, send)
                return
            began, status = time.time_ns(), 0
            attributes: dict[str, Any] = {"url.path": scope["path"]}

            async def watched_send(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            _ATTRIBUTES.set(attributes)  # in the task of this request, and in those that it starts
            try:
                await app(scope, receive, watched_send)
            finally:
                self._record(scope, began, status, attributes)

        return traced

    def close(self) -> None:
        """Send what is left, for a bounded time: nobody may answer at the other end."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_FLUSH_S)

    def _record(self, scope: Scope, began: int, status: int, attributes: dict[str, Any]) -> None:
        """`began`: time.time_ns; `status`: 0 where the client left before there was any."""
        operation = _OPERATIONS[scope["path"]]
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        told = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "sgl",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "http.request.method": scope["method"],
            **attributes,
        }
        if status:
            told["http.response.status_code"] = status
        if status >= 400:
            told["error.type"] = str(status)
        span = self._tracer.start_span(
            f"{operation} {self._model}",
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes=told,
            start_time=began,
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def otlp_traces(endpoint: str, model: str) -> Traces:
    """Sends to a collector by OTLP over HTTP, in batches, from a thread."""
    return Traces(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)), model)


def _parameters(request: PreparedRequest) -> dict[str, Any]:
    """As they hold for every sample."""
    first = request.samples[0]
    sampling = first.generate.sampling
    return {
        "gen_ai.response.id": first.rid,
        "gen_ai.request.choice.count": len(request.samples),
        "gen_ai.request.max_tokens": sampling.max_new_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
    }


def _counted(request: PreparedRequest) -> dict[str, Any]:
    """Of a request that is answered by the computation of its prompts: every sample has one of its own."""
    return {
        "gen_ai.response.id": request.samples[0].rid,
        "gen_ai.usage.input_tokens": prompt_tokens(request),
    }


def _usage(streams: Sequence[Stream]) -> dict[str, Any]:
    return {
        "gen_ai.usage.output_tokens": sum(stream.completion_tokens for stream in streams),
        "gen_ai.usage.cache_read.input_tokens": sum(stream.cached_tokens for stream in streams),
        "gen_ai.response.finish_reasons": [
            "abort" if stream.finish is None else ending(stream.finish) for stream in streams
        ],
    }


def _latencies(streams: Sequence[Stream]) -> dict[str, Any]:
    """Seconds: of the sample that had its first token first, and of the one that waited longest."""
    asked = min(stream.times.asked for stream in streams)
    first = [stream.times.first for stream in streams if stream.times.first is not None]
    queued = [stream.times.queued for stream in streams if stream.times.queued is not None]
    told = {"gen_ai.latency.e2e": time.monotonic() - asked}
    if first:
        told["gen_ai.response.time_to_first_chunk"] = min(first) - asked
        told["gen_ai.latency.time_to_first_token"] = min(first) - asked
    if queued:
        told["gen_ai.latency.time_in_queue"] = max(queued)
    return told
