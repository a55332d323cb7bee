# SPDX-License-Identifier: Apache-2.0
"""`/v1/files`: what batches read and write."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from sgl_runtime.errors import SglError
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import convert
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.openai.batches.objects import File, FileFields, FileQuery, page
from sgl_runtime.http.openai.batches.store import Store
from sgl_runtime.http.openai.batches.upload import Upload


async def create_file(api: Api, request: Request) -> Response:
    pieces = request.stream()
    try:
        return json_response(await _create(api, request, pieces))
    except SglError:
        async for _ in pieces:  # a client that is still sending hears no answer
            pass
        raise


async def list_files(api: Api, request: Request) -> Response:
    files, more = await api.storage.do(Store.files, convert(request.query_params, FileQuery))
    return json_response(page(files, more=more))


async def get_file(api: Api, request: Request) -> Response:
    return json_response(await api.storage.do(Store.file, request.path_params["id"]))


async def get_content(api: Api, request: Request) -> Response:
    file = await api.storage.do(Store.file, request.path_params["id"])
    path = await api.storage.do(Store.path, file.id)
    return FileResponse(path, media_type="application/octet-stream")


async def delete_file(api: Api, request: Request) -> Response:
    id = request.path_params["id"]
    await api.storage.do(Store.delete_file, id)
    return json_response({"id": id, "object": "file", "deleted": True})


async def _create(api: Api, request: Request, pieces: AsyncIterator[bytes]) -> File:
    storage, most = api.storage, api.config.max_file_size
    path = await storage.do(Store.new_upload)
    kind = request.headers.get("content-type", "")
    upload = await storage.write(Upload, path, kind, max_bytes=most)
    try:
        async for piece in pieces:
            await storage.write(upload.feed, piece)
        if upload.size > most:
            raise HTTPException(413, f"the file has {upload.size} bytes, more than {most} (--max-file-size)")
        name = await storage.write(upload.finish)
        fields = convert(upload.fields, FileFields)
        return await storage.do(Store.add_file, path, name, fields)
    finally:
        await storage.write(upload.discard)
