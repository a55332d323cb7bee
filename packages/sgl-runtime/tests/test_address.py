# SPDX-License-Identifier: Apache-2.0
"""Places to listen: what is taken, what is refused, and what is left behind."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from sgl_runtime.address import base_url, bind_port, listening_place, share_with_the_past
from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def at(path: Path) -> ServeConfig:
    return ServeConfig(uds=str(path))


def test_a_unix_socket_is_there_as_long_as_it_is_held(path: Path) -> None:
    with listening_place(at(path)) as listener:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert base_url(at(path), listener) == "http://localhost"
        listener.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert list(path.parent.iterdir()) == []


def test_what_a_killed_server_left_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    path.with_name("s.lock").touch()
    with listening_place(at(path)):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_socket_that_somebody_listens_on_stays(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with (
            pytest.raises(ConfigError, match="is in use: stop what listens there"),
            listening_place(at(path)),
        ):
            pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_two_servers_that_start_at_once_on_one_path(path: Path) -> None:
    with listening_place(at(path)):  # bound, and not listening yet
        with pytest.raises(ConfigError, match="another server is starting"), listening_place(at(path)):
            pass
        assert path.exists()


def test_a_file_that_is_no_socket_stays(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is no socket"), listening_place(at(path)):
        pass
    path.with_name("link").symlink_to(path)
    with pytest.raises(ConfigError, match="is no socket"), listening_place(at(path.with_name("link"))):
        pass
    assert path.read_text() == "mine"


def test_another_socket_that_took_its_place_stays(path: Path) -> None:
    with listening_place(at(path)):
        path.rename(path.with_name("kept"))  # so that its inode is not used again
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.exists()


@pytest.mark.parametrize("name", ["no/such/folder/s", "x" * 120])
def test_paths_that_cannot_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot listen on --uds"), listening_place(at(tmp_path / name)):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:{}"),
        ("0.0.0.0", True, "https://127.0.0.1:{}"),
        ("::1", False, "http://[::1]:{}"),
    ],
)
def test_a_port_is_named_as_a_client_here_asks(host: str, tls: bool, url: str) -> None:
    config = ServeConfig(host=host, port=0, ssl_certfile="cert" if tls else None)
    with listening_place(config) as listener:
        assert base_url(config, listener) == url.format(listener.getsockname()[1])


def test_a_port_is_free_for_the_next_server_although_connections_linger() -> None:
    """Whoever closes a connection first keeps its address for a minute; here that is the server."""
    with bind_port("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match="is in use"):  # bound, and not listening yet
            bind_port("127.0.0.1", port)
        share_with_the_past(first)
        first.listen()
        with pytest.raises(ConfigError, match="is in use"):
            bind_port("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port)) as client:
            first.accept()[0].close()
            assert client.recv(1) == b""
    with bind_port("127.0.0.1", port) as second:
        share_with_the_past(second)
        second.listen()
