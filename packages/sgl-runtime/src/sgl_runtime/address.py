# SPDX-License-Identifier: Apache-2.0
"""Where a server is reached: a TCP port or a Unix socket, taken before anything slow happens, and its name.

Knows only sockets; that HTTP is spoken on them is for others to know.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError


@contextmanager
def listening_place(config: ServeConfig) -> Iterator[socket.socket]:
    """A bound socket on which nobody listens yet. Raises ConfigError when it is not to be had."""
    if config.uds is not None:
        with _locked(Path(config.uds)) as path, _bind_path(path) as listener:
            yield listener
    else:
        with bind_port(config.host, config.port) as listener:
            yield listener


def base_url(config: ServeConfig, listener: socket.socket) -> str:
    """Under which a client on this machine asks."""
    scheme = "http" if config.ssl_certfile is None else "https"
    if config.uds is not None:
        return f"{scheme}://localhost"
    host, port = listener.getsockname()[:2]
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    host = everywhere.get(host, host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def bind_port(host: str, port: int) -> socket.socket:
    """Raises ConfigError when the port is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"--host {host} is no address of this machine: {error}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # Bind over connections of a server that has ended, but let nobody else bind before this one listens.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            remedy = "stop what listens there or choose another --port"
            raise ConfigError(f"port {port} on {host} is in use: {remedy}") from None
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def share_with_the_past(listener: socket.socket) -> None:
    """For a bound socket that is about to listen: connections of a server that has ended, which linger for a
    minute (TIME_WAIT), do not keep it from listening, nor those that it accepts the next server."""
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


@contextmanager
def _bind_path(path: Path) -> Iterator[socket.socket]:
    """Removed at the end, if it is still this one. Who may connect is decided by the umask."""
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(str(path))
            ours = path.stat().st_ino
        except OSError as error:
            raise ConfigError(f"cannot listen on --uds {path}: {error.strerror or error}") from None
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == ours:
                    path.unlink()


def _remove_stale(path: Path) -> None:
    """What a killed server has left. Raises ConfigError for any other file, and for a socket in use."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"--uds {path} exists and is no socket: choose another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink()
        return
    except OSError as error:
        raise ConfigError(f"--uds {path} cannot be used: {error.strerror or error}") from None
    raise ConfigError(f"--uds {path} is in use: stop what listens there or choose another path")


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    """Held from before the socket is bound: one that does not listen yet looks like one left behind."""
    lock = path.with_name(path.name + ".lock")
    while True:
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot listen on --uds {path}: {error.strerror}: {lock}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and lock.stat().st_ino == os.fstat(descriptor).st_ino:
                break  # not removed by its last owner since it was opened
        except BlockingIOError:
            os.close(descriptor)
            raise ConfigError(
                f"--uds {path} is in use: another server is starting or running there"
            ) from None
        os.close(descriptor)
    try:
        yield path
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)
