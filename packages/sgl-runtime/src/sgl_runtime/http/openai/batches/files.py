# SPDX-License-Identifier: Apache-2.0
"""`/v1/files`: what batches read and write."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from sgl_runtime.errors import Conflict, SglError
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import convert
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.openai.batches.objects import DeletedFile, File, FileFields, FileList, FileQuery
from sgl_runtime.http.openai.batches.store import Store
from sgl_runtime.http.openai.batches.upload import Upload
from sgl_runtime.http.operation import operation

_UNKNOWN = {404: "There is no such file."}
_FULL = {
    409: "Other files were deleted while this one was refused for them: send it again.",
    507: "The file cannot be kept: the disk is full, or does not allow it.",
}


@operation(form=FileFields, answers=File, refuses=_FULL)
async def create_file(api: Api, request: Request) -> Response:
    """Keep a file of requests for batches. Its name is remembered and part of no path."""
    pieces = request.stream()
    try:
        return json_response(await _create(api, request, pieces))
    except SglError:
        async for _ in pieces:  # a client that is still sending hears no answer
            pass
        raise


@operation(query=FileQuery, answers=FileList, refuses=_UNKNOWN)
async def list_files(api: Api, request: Request) -> Response:
    """List the files, the latest first unless asked otherwise."""
    files, more = await api.storage.do(Store.files, convert(request.query_params, FileQuery))
    return json_response(FileList.of(files, more=more))


@operation(answers=File, refuses=_UNKNOWN)
async def get_file(api: Api, request: Request) -> Response:
    """Describe a file."""
    return json_response(await api.storage.do(Store.file, request.path_params["id"]))


@operation(answers="application/octet-stream", refuses=_UNKNOWN)
async def get_content(api: Api, request: Request) -> Response:
    """Send what is in a file."""
    file = await api.storage.do(Store.file, request.path_params["id"])
    path = await api.storage.do(Store.path, file.id)
    return FileResponse(path, media_type="application/octet-stream")


@operation(answers=DeletedFile, refuses={**_UNKNOWN, 409: "A batch still needs the file."})
async def delete_file(api: Api, request: Request) -> Response:
    """Delete a file."""
    id = request.path_params["id"]
    await api.storage.do(Store.delete_file, id)
    return json_response(DeletedFile(id=id))


async def _create(api: Api, request: Request, pieces: AsyncIterator[bytes]) -> File:
    storage, most, all_most = api.storage, api.config.max_file_size, api.config.max_file_storage
    path = await storage.do(Store.new_upload)
    kind = request.headers.get("content-type", "")
    room = most if all_most is None else min(most, all_most - storage.tally.bytes)
    upload = await storage.write(Upload, path, kind, max_bytes=room)
    try:
        async for piece in pieces:
            await storage.write(upload.feed, piece)
        if upload.size > most:
            raise HTTPException(413, f"the file has {upload.size} bytes, more than {most} (--max-file-size)")
        if upload.size > room:  # some of it was not written
            storage.tally.check_room(upload.size, all_most)
            raise Conflict("file: other files were deleted while this one came; send it again", param="file")
        name = await storage.write(upload.finish)
        fields = convert(upload.fields, FileFields)
        return await storage.do(Store.add_file, path, name, fields, most=all_most)
    finally:
        await storage.write(upload.discard)
