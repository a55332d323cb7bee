# SPDX-License-Identifier: Apache-2.0
"""Images and videos: from whatever a user has, into prompts, messages and requests."""

from __future__ import annotations

import base64
import io
import json

import httpx
import pytest

import sgl_lang as sgl
from sgl_lang import Capabilities, Image, ProgramError, Scripted, UnsupportedByBackend, Video

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JPEG = b"\xff\xd8\xff\xe0rest"
URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


@sgl.function
def image_qa(s, image_file, question):
    s += sgl.user(sgl.image(image_file) + question)
    s += sgl.assistant(sgl.gen("answer", max_tokens=256))


class _PILImage:
    """What this package knows of PIL's images."""

    mode = "RGB"

    def save(self, file: io.BytesIO, format: str) -> None:
        assert format == "PNG"
        file.write(PNG)


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "data", "pil", "image"])
def test_images_of_every_origin_become_the_same(tmp_path, kind):
    file = tmp_path / "a picture.png"
    file.write_bytes(PNG)
    origins = {
        "path": file,
        "str": str(file),
        "bytes": PNG,
        "data": URL,
        "pil": _PILImage(),
        "image": Image(PNG),
    }
    backend = Scripted({"answer": "a dot"})
    state = image_qa.run(origins[kind], "What is it?", backend=backend)
    prompt = backend.calls[0].prompt
    assert prompt.media == (Image(PNG, None, "image/png"),)
    assert prompt.text == "<|im_start|>user\n<image>What is it?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.messages[0] == ("user", (Image(PNG), "What is it?"))
    assert state.messages()[0] == {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": URL}},
            {"type": "text", "text": "What is it?"},
        ],
    }


def test_the_kind_of_picture_is_seen_in_its_bytes():
    kinds = {
        PNG: "image/png",
        JPEG: "image/jpeg",
        b"GIF89a": "image/gif",
        b"RIFF1234WEBPVP8 ": "image/webp",
        b"BM1234": "image/bmp",
    }
    for data, mime in kinds.items():
        (part,) = sgl.image(data).parts
        assert part.media.mime == mime


def test_what_lies_behind_a_url_is_left_there():
    (part,) = sgl.image("https://example.org/cat.jpg?size=2").parts
    assert part.media == Image(None, "https://example.org/cat.jpg?size=2", "image/jpeg")
    assert part.media.location == "https://example.org/cat.jpg?size=2"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no/such/file.png", "cannot be read"),
        ("nul\0.png", "cannot be read"),
        (b"plain text", "no PNG"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,???", "base64"),
        (5, "int"),
    ],
)
def test_what_is_no_image_is_refused_at_its_line(source, words):
    with pytest.raises(ProgramError, match=words):
        sgl.image(source)


def test_an_empty_file_is_no_image(tmp_path):
    file = tmp_path / "empty.png"
    file.touch()
    with pytest.raises(ProgramError, match="empty file"):
        sgl.image(file)


def test_videos(tmp_path):
    file = tmp_path / "film.mp4"
    file.write_bytes(b"film")
    (part,) = sgl.video(file, 8).parts
    assert part.media == Video(b"film", 8, "video/mp4")
    for frames in (0, "8", True):
        with pytest.raises(ProgramError, match="num_frames"):
            sgl.video(file, frames)


def test_requests_carry_images_in_their_order(tmp_path):
    film = tmp_path / "film.mp4"
    film.write_bytes(b"film")

    @sgl.function
    def program(s):
        s += (
            "Compare " + sgl.image(PNG) + " and " + sgl.image("http://x/y.png") + " and " + sgl.video(film, 3)
        )
        s += sgl.select("same", ["yes", "no"]) + sgl.gen("why")

    requests = []

    def answer(request):
        body = json.loads(request.content)
        requests.append((request.url.path, body))
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"tokens": [list(text.encode()) for text in body["prompt"]]})
        if "input_ids" not in body:
            return httpx.Response(200, json={"text": "so", "meta_info": {}})
        scored = {"input_token_logprobs": [[-1.0, 1, None]]}
        return httpx.Response(200, json=[{"text": "", "meta_info": scored}] * len(body["input_ids"]))

    client = httpx.Client(transport=httpx.MockTransport(answer))
    backend = sgl.RuntimeEndpoint("http://server", client=client, chat_template="default")
    program.run(backend=backend)
    shown = [URL, "http://x/y.png", "video:3:data:video/mp4;base64,ZmlsbQ=="]
    assert requests[1][1]["image_data"] == [shown, shown]
    assert requests[2][1]["image_data"] == shown
    assert requests[2][1]["text"] == "Compare <image> and <image> and <image>yes"


def test_a_backend_that_sees_nothing_is_not_shown_anything(tmp_path):
    backend = Scripted({}, capabilities=Capabilities(images=False))
    with pytest.raises(UnsupportedByBackend, match="Scripted takes no images"):
        image_qa.run(PNG, "?", backend=backend)
    film = tmp_path / "film.mp4"
    film.write_bytes(b"film")

    @sgl.function
    def watch(s):
        s += sgl.video(film, 2)

    with pytest.raises(UnsupportedByBackend, match="no videos; show some of its pictures"):
        watch.run(backend=Scripted({}, capabilities=Capabilities(videos=False)))


def test_what_is_no_picture_and_no_film():
    for url, words in (
        ("data:text/html;base64,AAAA", "holds text/html"),
        ("data:image/png;base64,", "nothing"),
    ):
        with pytest.raises(sgl.ProgramError, match=words):
            sgl.image(url)
    for path in (b"film.mp4", 3):
        with pytest.raises(sgl.ProgramError, match=r"video\(\) takes the path of a file"):
            sgl.video(path, 1)
    assert sgl.image("HTTPS://x/y.gif") == sgl.image("HTTPS://x/y.gif") != sgl.image("https://x/z.gif")
