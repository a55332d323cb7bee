# SPDX-License-Identifier: Apache-2.0
"""The default backend of the process, and the functions that speak to it.

The only mutable state of the package. It belongs to the process and not to a context, because programs also
run in threads that inherit no context, such as those of a web server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sgl_lang.backends.protocol import Backend, Server
from sgl_lang.errors import ProgramError, UnsupportedByBackend


@dataclass(slots=True)
class _Default:
    backend: Backend | None = None


_default = _Default()


def set_default_backend(backend: Backend) -> None:
    """Use this backend wherever none is given, in all threads."""
    _default.backend = backend


def default_backend() -> Backend:
    """The default backend. Raises ProgramError if none was set."""
    if _default.backend is None:
        raise ProgramError(
            "there is no backend; pass backend=... or call "
            'set_default_backend(RuntimeEndpoint("http://localhost:30000")) once'
        )
    return _default.backend


def flush_cache(backend: Backend | None = None) -> None:
    """Empty the prefix cache of the backend's server, the default backend's if none is given.

    Raises BackendError if the server will not, UnsupportedByBackend if there is no such server.
    """
    _server(backend, "flush_cache").flush_cache()


def get_server_args(backend: Backend | None = None) -> dict[str, Any]:
    """The arguments with which the backend's server was started; errors like those of `flush_cache`."""
    return _server(backend, "get_server_args").get_server_args()


def _server(backend: Backend | None, what: str) -> Server:
    chosen = default_backend() if backend is None else backend
    if not isinstance(chosen, Server):
        raise UnsupportedByBackend(f"{what}() needs a server of sgl-runtime; {type(chosen).__name__} is none")
    return chosen
