# SPDX-License-Identifier: Apache-2.0
"""TLS: what httpx makes of it with HTTP/1.1 and HTTP/2, who is let in, and which files are refused."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from scripted import Script
from served import listening, parse_events

from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.tls import tls_context

BODY = {"text": "hello", "sampling_params": {"temperature": 0}}


class Files:
    """An authority, a server's certificate and key, another key, and the same key under a password."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("127.0.0.1")
        self.ca, self.cert, self.key, self.other, self.locked = (
            str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem", "other.pem", "locked.pem")
        )
        self.authority.cert_pem.write_to_path(self.ca)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.cert, append=True)
        issued.private_key_pem.write_to_path(self.key)
        self.authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(self.other)
        key = load_pem_private_key(issued.private_key_pem.bytes(), None)
        encryption = BestAvailableEncryption(b"opens")
        locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        Path(self.locked).write_bytes(locked)

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.mark.anyio
@pytest.mark.parametrize(("http2", "version"), [(False, "HTTP/1.1"), (True, "HTTP/2")])
async def test_clients_get_what_they_speak(files: Files, http2: bool, version: str) -> None:
    async with listening(Script(), ssl_certfile=files.cert, ssl_keyfile=files.key) as server:
        url = f"https://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=url, verify=files.client(), http2=http2) as client:
            whole = await client.post("/generate", json=BODY)
            streamed = await client.post("/generate", json={**BODY, "stream": True})
        assert (whole.http_version, whole.json()["text"]) == (version, "HELLO")
        assert parse_events(streamed.text)[-1]["text"] == "HELLO"
        async with httpx.AsyncClient(verify=files.client()) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(f"http://127.0.0.1:{server.port}/health")


@pytest.mark.anyio
async def test_a_client_must_show_a_certificate_where_an_authority_is_given(files: Files) -> None:
    flags = {"ssl_certfile": files.cert, "ssl_keyfile": files.key, "ssl_ca_certs": files.ca}
    async with listening(Script(), **flags) as server:
        url, known = f"https://127.0.0.1:{server.port}/health", files.client()
        async with httpx.AsyncClient(verify=known) as client:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await client.get(url)
        files.authority.issue_cert("client").configure_cert(known)
        async with httpx.AsyncClient(verify=known) as client:
            assert (await client.get(url)).status_code == 200


@pytest.mark.anyio
async def test_a_password_opens_the_key_and_is_not_told(files: Files) -> None:
    flags = {"ssl_certfile": files.cert, "ssl_keyfile": files.locked, "ssl_keyfile_password": "opens"}
    async with listening(Script(), **flags) as server, httpx.AsyncClient(verify=files.client()) as client:
        told = (await client.get(f"https://127.0.0.1:{server.port}/get_server_args")).json()
    assert told["ssl_keyfile_password"] == "***"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (lambda files: {"ssl_keyfile": files.key}, "--ssl-keyfile goes with --ssl-certfile"),
        (lambda files: {"ssl_ca_certs": files.ca}, "--ssl-ca-certs goes with --ssl-certfile"),
        (lambda files: {"ssl_certfile": "/no/such"}, "--ssl-certfile /no/such cannot be read: No such file"),
        (
            lambda files: {"ssl_certfile": files.cert, "ssl_keyfile": "/"},
            "--ssl-keyfile / cannot be read: Is a",
        ),
        (
            lambda files: {"ssl_certfile": files.cert, "ssl_keyfile": files.other},
            "does not belong to the key in",
        ),
        (lambda files: {"ssl_certfile": files.cert}, "cannot be used: give a chain of certificates"),
        (
            lambda files: {"ssl_certfile": files.key, "ssl_keyfile": files.cert},
            "cannot be used: give a chain",
        ),
        (
            lambda files: {"ssl_certfile": files.cert, "ssl_keyfile": files.locked},
            "is encrypted, and --ssl-keyfile-password is not given",
        ),
        (
            lambda files: {
                "ssl_certfile": files.cert,
                "ssl_keyfile": files.locked,
                "ssl_keyfile_password": "x",
            },
            "is encrypted, and --ssl-keyfile-password is not its password",
        ),
        (
            lambda files: {"ssl_certfile": files.cert, "ssl_keyfile": files.key, "ssl_ca_certs": files.key},
            "holds no certificates in PEM format",
        ),
    ],
)
def test_files_that_cannot_work(files: Files, flags: Callable[[Files], dict[str, str]], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")) as refused:
        tls_context(ServeConfig(**flags(files)))
    assert "\n" not in refused.value.message
