# SPDX-License-Identifier: Apache-2.0
"""Files and batches, through the official client and a real socket; what lies on the disk is real, too."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch
from scripted import CAPACITY, Script
from served import Listening, listening, served

from sgl_runtime.http.openai.batches import runner

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "cancelled", "expired")


class Client:
    """The official client, and what tests do with it."""

    def __init__(self, server: Listening, openai_client: openai.AsyncOpenAI) -> None:
        self.server = server
        self.openai = openai_client

    async def upload(self, content: bytes, name: str = "input.jsonl") -> str:
        return (await self.openai.files.create(file=(name, content), purpose="batch")).id

    async def batch(self, content: bytes, endpoint: Any = CHAT, window: Any = "24h", **more: Any) -> Batch:
        return await self.openai.batches.create(
            input_file_id=await self.upload(content), endpoint=endpoint, completion_window=window, **more
        )

    async def until(self, batch: Batch, ready: Callable[[Batch], bool]) -> Batch:
        async with asyncio.timeout(20):
            while not ready(batch := await self.openai.batches.retrieve(batch.id)):
                await asyncio.sleep(0.005)
        return batch

    async def ended(self, batch: Batch) -> Batch:
        return await self.until(batch, lambda batch: batch.status in ENDED)

    async def results(self, file: str | None) -> dict[str, Any]:
        """By custom_id; each once."""
        assert file is not None
        lines = [json.loads(line) for line in (await self.openai.files.content(file)).text.splitlines()]
        by_name = {line["custom_id"]: line for line in lines}
        assert len(by_name) == len(lines)
        return by_name


@asynccontextmanager
async def client_of(folder: Path, script: Script | None = None, **config: Any) -> AsyncIterator[Client]:
    async with (
        listening(script or Script(), api_key="secret", file_storage_path=str(folder), **config) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client,
    ):
        yield Client(server, client)


def line(name: str, content: str = "hello", url: str = CHAT, **body: Any) -> bytes:
    body = {"model": "default", "messages": [{"role": "user", "content": content}], "temperature": 0, **body}
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body}).encode() + b"\n"


def text(result: Any) -> str:
    content: str = result["response"]["body"]["choices"][0]["message"]["content"]
    return content


async def test_a_batch(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        content = b"".join(line(f"r{i}", f"hello {i}") for i in range(40))
        batch = await client.batch(content, metadata={"a": "b"})
        assert (batch.status, batch.metadata, batch.endpoint) == ("validating", {"a": "b"}, CHAT)
        batch = await client.ended(batch)
        assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
        assert batch.request_counts is not None and batch.request_counts.to_dict() == {
            "total": 40,
            "completed": 40,
            "failed": 0,
        }
        results = await client.results(batch.output_file_id)
        assert results.keys() == {f"r{i}" for i in range(40)}
        for i in range(40):
            assert f"HELLO {i}" in text(results[f"r{i}"])
            assert (results[f"r{i}"]["error"], results[f"r{i}"]["response"]["status_code"]) == (None, 200)
            openai.types.chat.ChatCompletion.model_validate(results[f"r{i}"]["response"]["body"])
        assert batch.output_file_id is not None
        file = await client.openai.files.retrieve(batch.output_file_id)
        assert (file.purpose, file.bytes) == (
            "batch_output",
            len((await client.openai.files.content(file.id)).content),
        )
