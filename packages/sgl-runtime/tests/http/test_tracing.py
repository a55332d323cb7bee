# SPDX-License-Identifier: Apache-2.0
"""Spans, as OpenTelemetry's own memory and protocol hold them."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from scripted import CAPACITY, Script, vector_to
from served import EMBEDDINGS, SCORES, listening, served, settle

from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.http.tracing import Traces
from sgl_runtime.launch import _check_tracing
from sgl_runtime.messages import Capacity, Delta, Load, Step, StoppedByLength

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY: dict[str, Any] = {
    "text": "secret",
    "sampling_params": {"temperature": 0, "max_new_tokens": 9, "stop": "zz"},
}


class Memory:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.traces = Traces(SimpleSpanProcessor(self.exporter), "tiny")

    def one(self) -> Any:
        (span,) = self.exporter.get_finished_spans()
        return span


@pytest.mark.anyio
async def test_a_span_says_what_was_asked_and_how_long_it_took() -> None:
    memory, script = Memory(), Script(per_step=None)
    async with served(script, traces=memory.traces) as server:
        asked = asyncio.create_task(server.http.post("/generate", json=BODY, headers={"traceparent": PARENT}))
        await settle()
        rid = script.generates[0].rid
        script._outbox.put_nowait(Step([], Load(), 0, {rid: 0.125}))
        script.say(Delta(rid, [65], cached=2))
        script.say(Delta(rid, [66], StoppedByLength(2), cached=2))
        assert (await asked).status_code == 200
    span = memory.one()
    assert (span.name, span.kind) == ("text_completion tiny", SpanKind.SERVER)
    assert f"{span.context.trace_id:032x}-{span.parent.span_id:016x}" == PARENT[3:-3]
    told = span.attributes
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "tiny"
    assert (told["gen_ai.request.max_tokens"], told["gen_ai.request.temperature"]) == (9, 0.0)
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (6, 2)
    assert told["gen_ai.usage.cache_read.input_tokens"] == 2
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert told["gen_ai.latency.time_in_queue"] == 0.125
    assert 0 < told["gen_ai.response.time_to_first_chunk"] <= told["gen_ai.latency.e2e"]
    assert told["http.response.status_code"] == 200
    assert "secret" not in str(told) and "zz" not in str(told)
    assert span.end_time - span.start_time >= 1e9 * told["gen_ai.latency.e2e"] * 0.9


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "secret"}], "n": 2}, "chat"),
        ("/v1/completions", {"prompt": "secret"}, "text_completion"),
        ("/v1/responses", {"input": "secret"}, "chat"),
        ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "secret"}]}, "chat"),
    ],
)
async def test_a_stream_of_every_protocol_has_one_span(
    path: str, body: dict[str, Any], operation: str
) -> None:
    memory = Memory()
    async with served(traces=memory.traces) as server:
        answer = await server.post(path, {"model": "default", "stream": True, **body})
        assert answer.status_code == 200
        assert (await server.http.get("/health")).status_code == 200
    span = memory.one()
    assert span.name == f"{operation} tiny"
    assert len(span.attributes["gen_ai.response.finish_reasons"]) == body.get("n", 1)
    assert span.attributes["gen_ai.usage.output_tokens"] > 0
    assert "secret" not in str(span.attributes)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "body", "operation", "capacity"),
    [
        ("/v1/embeddings", {"input": ["secret", "two"]}, "embeddings", EMBEDDINGS),
        ("/encode", {"text": ["secret", "two"]}, "embeddings", EMBEDDINGS),
        ("/v1/classify", {"input": ["secret", "two"]}, "classify", SCORES),
        ("/v1/score", {"query": "sec", "items": ["ret", ""], "label_token_ids": [7]}, "score", CAPACITY),
        ("/v1/decisions", {"prompt": "s", "choices": ["ecret", "ec"]}, "decide", CAPACITY),
    ],
)
async def test_what_is_answered_by_its_prompts_has_a_span(
    path: str, body: dict[str, Any], operation: str, capacity: Capacity
) -> None:
    memory = Memory()
    script = Script(vector=None if capacity is CAPACITY else vector_to)
    async with served(script, traces=memory.traces, capacity=capacity) as server:
        answer = await server.answer(path, body)
    span = memory.one()
    told = span.attributes
    assert (span.name, told["gen_ai.operation.name"]) == (f"{operation} tiny", operation)
    usage = answer["usage"]["prompt_tokens"] if "usage" in answer else 6 + 3
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (usage, 0)
    ends = "length" if capacity is CAPACITY else "pooled"
    assert told["gen_ai.response.finish_reasons"] == (ends, ends)
    assert told["gen_ai.latency.e2e"] > 0
    assert not {name for name in told if name.startswith("gen_ai.request.")} - {"gen_ai.request.model"}
    assert "secret" not in str(told)


@pytest.mark.anyio
async def test_what_is_refused_and_what_fails_has_a_span() -> None:
    memory = Memory()
    async with served(traces=memory.traces, api_key="key") as server:
        await server.post("/generate", BODY)
        server.http.headers["authorization"] = "Bearer key"
        await server.post("/generate", {"text": 5})
        server.api.client.submit = None  # type: ignore[method-assign, assignment]
        await server.post("/generate", BODY)
    spans = memory.exporter.get_finished_spans()
    assert [span.attributes["error.type"] for span in spans] == ["401", "400", "500"]
    assert [span.status.status_code for span in spans] == [
        StatusCode.UNSET,
        StatusCode.UNSET,
        StatusCode.ERROR,
    ]


@pytest.mark.anyio
async def test_who_leaves_has_a_span_too() -> None:
    memory, script = Memory(), Script(per_step=None)
    async with served(script, traces=memory.traces) as server:
        asked = asyncio.create_task(server.post("/generate", BODY))
        await settle()
        await server.answer("/abort_request", {"abort_all": True})
        await asked
    assert memory.one().attributes["gen_ai.response.finish_reasons"] == ("error",)


class Collector(BaseHTTPRequestHandler):
    got: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            data = gzip.decompress(data)
        assert self.path == "/v1/traces"
        self.got.append(ExportTraceServiceRequest.FromString(data))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[ThreadingHTTPServer]:
    Collector.got = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.anyio
async def test_a_collector_gets_the_spans_when_the_server_ends(collector: ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    async with listening(Script(), otlp_traces_endpoint=url) as server, httpx.AsyncClient() as client:
        for _ in range(3):
            await client.post(server.url + "/generate", json=BODY, headers={"traceparent": PARENT})
    resources = [resource for got in Collector.got for resource in got.resource_spans]
    names = {attribute.key: attribute.value.string_value for attribute in resources[0].resource.attributes}
    assert names["service.name"] == "sgl-runtime"
    spans = [span for resource in resources for scope in resource.scope_spans for span in scope.spans]
    assert [span.trace_id.hex() for span in spans] == [PARENT[3:35]] * 3
    usage = {attribute.key: attribute.value.int_value for attribute in spans[0].attributes}
    assert usage["gen_ai.usage.input_tokens"] == 6
    assert not any(b"secret" in got.SerializeToString() for got in Collector.got)


@pytest.mark.anyio
async def test_a_collector_that_is_not_there_holds_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1/traces"
        async with listening(Script(), otlp_traces_endpoint=url) as server, httpx.AsyncClient() as client:
            assert (await client.post(server.url + "/generate", json=BODY)).status_code == 200
            server.stop.set()
            async with asyncio.timeout(10):
                await server.ending


def test_endpoints_that_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="gRPC is not spoken"):
        _check_tracing(ServeConfig(otlp_traces_endpoint="grpc://localhost:4317"))
    _check_tracing(ServeConfig(otlp_traces_endpoint="http://localhost:4318/v1/traces"))
    monkeypatch.setattr("sgl_runtime.launch.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'sgl-runtime\[otel\]'"):
        _check_tracing(ServeConfig(otlp_traces_endpoint="http://localhost:4318/v1/traces"))
