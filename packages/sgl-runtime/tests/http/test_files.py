# SPDX-License-Identifier: Apache-2.0
"""`/v1/files`: what comes in, piece by piece, and what a client may not do with names."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Script
from served import Served, listening, served

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.openai.batches.upload import Upload

pytestmark = pytest.mark.anyio
NAMES = [
    "../../escaped.jsonl",
    "/tmp/escaped.jsonl",
    "..\\escaped",
    "a;b='c'.jsonl",
    "数据 🙂.jsonl",
    "." * 300,
]


@asynccontextmanager
async def storing(folder: Path, **config: Any) -> AsyncIterator[Served]:
    async with served(file_storage_path=str(folder), **config) as server:
        try:
            yield server
        finally:
            await server.api.storage.close()


async def upload(
    server: Served, content: bytes = b"{}\n", name: str = "a.jsonl", **fields: str
) -> httpx.Response:
    fields = {"purpose": "batch", **fields}
    return await server.http.post("/v1/files", files={"file": (name, content)}, data=fields)


def contents(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and "store.sqlite3" not in path.name}


async def test_a_file_with_the_official_client(tmp_path: Path) -> None:
    async with (
        listening(Script(), file_storage_path=str(tmp_path)) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        (tmp_path / "in.jsonl").write_bytes(content := bytes(range(256)) * 5000)
        file = await client.files.create(
            file=tmp_path / "in.jsonl",
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (file.filename, file.bytes, file.purpose, file.status) == (
            "in.jsonl", len(content), "batch", "processed",
        )  # fmt: skip
        assert file.expires_at == file.created_at + 3600
        assert await client.files.retrieve(file.id) == file
        assert (await client.files.content(file.id)).content == content
        assert (await client.files.delete(file.id)).deleted
        for gone in (client.files.retrieve, client.files.content, client.files.delete):
            with pytest.raises(openai.NotFoundError):
                await gone(file.id)
        assert [file async for file in client.files.list()] == []
    assert contents(tmp_path) == {tmp_path / "in.jsonl"}


@pytest.mark.parametrize("name", NAMES)
async def test_names_are_kept_and_lead_nowhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "deep/er/storage"
    async with storing(folder) as server:
        answer = (await upload(server, name=name)).json()
        assert answer["filename"] == name
        assert contents(tmp_path) == {folder / "files" / answer["id"]}


@pytest.mark.parametrize(
    "id",
    [
        "..%2fstore.sqlite3",
        "../store.sqlite3",
        "%2fetc%2fpasswd",
        "..",
        "%00",
        "*",
        "' OR 1=1 --",
        "x" * 5000,
    ],
)
async def test_ids_that_were_not_given_are_not_found(tmp_path: Path, id: str) -> None:
    async with storing(tmp_path) as server:
        await upload(server)
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            response = await server.http.request(method, f"/v1/files/{id}{path}")
            assert response.status_code in (404, 405)
        assert len((await server.http.get("/v1/files")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"files": {"file": ("a", b"")}}, "purpose"),
        ({"files": {"file": ("a", b"")}, "data": {"purpose": "fine-tune"}}, "purpose"),
        ({"files": {"file": ("a", b"")}, "data": {"purpose": "batch", "colour": "red"}}, "colour"),
        ({"files": {"file": ("a", b"")}, "data": {"purpose": "batch", "x": "y" * 5000}}, "x"),
        (
            {"files": {"file": ("a", b"")}, "data": {"purpose": "batch", "expires_after[seconds]": "1"}},
            "expires_after[seconds]",
        ),
        ({"files": {"document": ("a", b"")}, "data": {"purpose": "batch"}}, "file"),
        ({"files": [("file", ("a", b"")), ("file", ("b", b""))], "data": {"purpose": "batch"}}, "file"),
        ({"files": {"file": (None, b"text")}, "data": {"purpose": "batch"}}, "file"),
        ({"json": {"purpose": "batch"}}, None),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=x"}}, None),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}}, None),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, None),
    ],
)
async def test_a_bad_form_is_refused_and_leaves_nothing(tmp_path: Path, form: Any, param: str | None) -> None:
    async with storing(tmp_path) as server:
        response = await server.http.post("/v1/files", **form)
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
        assert contents(tmp_path) == set()


@pytest.mark.parametrize("size", [1001, 10_000, 3_000_000])
async def test_a_file_that_is_too_large_is_413(tmp_path: Path, size: int) -> None:
    async with storing(tmp_path, max_file_size=1000, max_body_size=500) as server:
        response = await upload(server, b"x" * size)
        assert response.status_code == 413
        assert "--max-file-size" in response.json()["error"]["message"]
        assert contents(tmp_path) == set()
        assert (await upload(server, b"x" * 1000)).json()["bytes"] == 1000


@pytest.mark.parametrize("size", [501, 3_000_000])
async def test_files_have_so_many_bytes_together(tmp_path: Path, size: int) -> None:
    async with storing(tmp_path, max_file_storage=1000) as server:
        first = (await upload(server, b"x" * 500)).json()["id"]
        response = await upload(server, b"x" * size)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (413, "file")
        assert "--max-file-storage" in error["message"]
        assert len(contents(tmp_path)) == 1
        assert (await upload(server, b"x" * 500)).status_code == 200
        assert (await upload(server, b"x")).status_code == 413
        assert (await server.http.delete(f"/v1/files/{first}")).status_code == 200
        assert (await upload(server, b"x" * 500)).json()["bytes"] == 500
    async with storing(tmp_path, max_file_storage=1000) as server:
        assert (await upload(server, b"x")).status_code == 413, "after a restart, too"


async def test_of_two_files_that_come_at_once_one_may_have_no_room(tmp_path: Path) -> None:
    async with storing(tmp_path, max_file_storage=1000) as server:
        answers = await asyncio.gather(*(upload(server, b"x" * 600) for _ in range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 413]
        assert len(contents(tmp_path)) == 1


async def test_room_that_comes_in_the_middle_of_a_file_is_for_the_next(tmp_path: Path) -> None:
    async with storing(tmp_path, max_file_storage=1000) as server:
        first = (await upload(server, b"x" * 500)).json()["id"]

        async def form() -> AsyncIterator[bytes]:
            yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 600
            assert (await server.http.delete(f"/v1/files/{first}")).status_code == 200
            yield b'\r\n--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n'

        kind = {"content-type": "multipart/form-data; boundary=b"}
        response = await server.http.post("/v1/files", content=form(), headers=kind)
        assert (response.status_code, response.json()["error"]["param"]) == (409, "file")
        assert contents(tmp_path) == set()


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    head += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc'
    async with listening(Script(), file_storage_path=str(tmp_path)) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head)
        async with asyncio.timeout(5):
            while not contents(tmp_path):
                await asyncio.sleep(0.001)
            writer.close()
            while contents(tmp_path):
                await asyncio.sleep(0.001)


async def test_files_are_behind_the_key(tmp_path: Path) -> None:
    async with storing(tmp_path / "none", api_key="secret") as server:
        assert (await upload(server)).status_code == 401
        for path in ("/v1/files", "/v1/files/x", "/v1/files/x/content", "/v1/batches", "/v1/batches/x"):
            assert (await server.http.get(path)).status_code == 401
    assert not (tmp_path / "none").exists()


async def test_a_folder_that_cannot_be_made_is_507(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    async with storing(tmp_path / "file/storage") as server:
        response = await upload(server)
        assert (response.status_code, response.json()["error"]["type"]) == (507, "storage_error")
        assert "--file-storage-path" in response.json()["error"]["message"]


# -- the parser of forms ------------------------------------------------------------------------------------


def form(content: bytes, boundary: bytes = b"x") -> bytes:
    return (
        b'--%b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--%b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--%b--\r\n'
    ) % (boundary, boundary, content, boundary)


def feed(path: Path, pieces: list[bytes]) -> Upload:
    upload = Upload(path, "multipart/form-data; boundary=x", max_bytes=10**9)
    for piece in pieces:
        upload.feed(piece)
    return upload


@settings(max_examples=50, deadline=None)
@given(
    st.binary(max_size=200) | st.just(b"\r\n--") | st.just(b"\r\n--x"[:-1] * 3), st.lists(st.integers(0, 400))
)
def test_any_division_of_a_form_gives_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cuts: list[int]
) -> None:
    if b"--x" in content:
        return
    path = tmp_path_factory.mktemp("upload") / "file"
    whole = form(content)
    places = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    upload = feed(path, [whole[a:b] for a, b in pairwise(places)])
    assert (upload.finish(), upload.fields, upload.size) == ("a", {"purpose": "batch"}, len(content))
    assert path.read_bytes() == content
    upload.discard()
    assert not path.exists()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 200), st.binary(max_size=3))
def test_a_broken_form_is_refused_or_understood(
    tmp_path_factory: pytest.TempPathFactory, place: int, noise: bytes
) -> None:
    path = tmp_path_factory.mktemp("upload") / "file"
    whole = form(b"content")
    upload = feed(path, [])
    try:
        upload.feed(whole[:place] + noise + whole[place + len(noise) :])
        upload.finish()
    except InvalidRequest:
        pass
    finally:
        upload.discard()


def test_what_is_too_large_is_counted_but_not_written(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "file", "multipart/form-data; boundary=x", max_bytes=1000)
    whole = form(b"y" * 5000)
    for i in range(0, len(whole), 100):
        upload.feed(whole[i : i + 100])
    assert upload.size == 5000
    assert (tmp_path / "file").stat().st_size <= 1000
    upload.discard()


def test_a_file_is_never_in_memory(tmp_path: Path) -> None:
    piece = b"x" * 65536
    head, tail = form(b"|").split(b"|")
    upload = feed(tmp_path / "file", [head])
    tracemalloc.start()
    try:
        for _ in range(256):
            upload.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    upload.feed(tail)
    upload.finish()
    assert (tmp_path / "file").stat().st_size == 256 * len(piece)
    assert peak < 4 * len(piece)
    upload.discard()
