# SPDX-License-Identifier: Apache-2.0
"""`Runtime`: an sgl-runtime server of one's own, as a child process, with a backend that speaks to it.

This file knows the server's command line and one line of what it prints; nothing of sgl-runtime is imported.
The child ends with `shutdown`, with the `with` block, or, at the latest, when this process ends normally.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import IO, Any

from sgl_lang.backends.protocol import Backend, Capabilities, Completion, Prompt, Scores
from sgl_lang.backends.runtime import RuntimeEndpoint
from sgl_lang.chat import ChatTemplate
from sgl_lang.errors import BackendError, ProgramError
from sgl_lang.sampling import SamplingParams

_ADDRESS = re.compile(r"at (https?://\S+?),? ")
_LAST_WORDS = 40  # lines of the server's output that are kept for an error
_STOP_S = 30.0  # for the server to answer what is under way


class Runtime(Backend):
    """A backend with a server of its own: starts `sgl-runtime serve` and waits until it answers.

    Args:
        model_path: the model; without one the small demonstration model.
        log_level: of the server.
        launch_timeout: seconds for the server to load its model.
        chat_template: as for `RuntimeEndpoint`; the server's own flag of that name is for its OpenAI API.
        server_args: the flags of `sgl-runtime serve`, with underscores: `tp_size=2`, `api_key="..."`. True
            sets a flag that takes no value, False and None leave one out, a list gives it several.

    Attributes:
        url: where the server listens.
        endpoint: the `RuntimeEndpoint` that speaks to it.

    Needs the extra `sgl-lang[runtime]`. Raises ProgramError without it, and BackendError, with the server's
    last words, if it does not start.
    """

    def __init__(
        self,
        model_path: str | None = None,
        *,
        log_level: str = "error",
        launch_timeout: float = 600.0,
        chat_template: str | ChatTemplate | None = None,
        **server_args: Any,
    ) -> None:
        if importlib.util.find_spec("sgl_runtime") is None:
            raise ProgramError(
                'Runtime() starts sgl-runtime, which is missing: pip install "sgl-lang[runtime]"'
            )
        if server_args.get("uds") is not None:
            raise ProgramError("Runtime() reaches its server over a port: leave uds out")
        flags = {"port": 0, **server_args, "model_path": model_path, "log_level": log_level}
        self._said: deque[str] = deque(maxlen=_LAST_WORDS)
        self._address: str | None = None
        self._told = threading.Event()  # the address, or that there is no output any more
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sgl_runtime", "serve", *_flags(flags)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        atexit.register(self.shutdown)
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), name="runtime output", daemon=True
        )
        self._reader.start()
        try:
            self.url = self._wait(launch_timeout)
            key = server_args.get("api_key")
            self.endpoint = RuntimeEndpoint(self.url, key, chat_template=chat_template)
        except BaseException:
            self.shutdown()
            raise

    # -- a backend: what the endpoint is

    @property
    def capabilities(self) -> Capabilities:
        return self.endpoint.capabilities

    @property
    def chat_template(self) -> ChatTemplate:
        return self.endpoint.chat_template

    def generate(self, prompt: Prompt, params: SamplingParams) -> Completion:
        return self.endpoint.generate(prompt, params)

    def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
        return self.endpoint.stream(prompt, params)

    def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> Scores:
        return self.endpoint.score(prompt, options, unconditional=unconditional)

    def warm(self, prompt: Prompt) -> None:
        self.endpoint.warm(prompt)

    def abort(self, rid: str) -> None:
        self.endpoint.abort(rid)

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, of a server started with `is_embedding=True` or an embedding model."""
        return self.endpoint.encode(texts)

    def flush_cache(self) -> None:
        """Empty the server's prefix cache."""
        self.endpoint.flush_cache()

    def get_server_args(self) -> dict[str, Any]:
        """The arguments with which the server was started."""
        return self.endpoint.get_server_args()

    def cache_prefix(self, prefix: str) -> None:
        """Compute a text that prompts will begin with, so that they cost less."""
        self.endpoint.warm(Prompt(os.urandom(16).hex(), prefix))

    # -- the process

    def shutdown(self) -> None:
        """End the server: it answers what is under way first. Twice is as good as once."""
        atexit.unregister(self.shutdown)
        if hasattr(self, "endpoint"):
            self.endpoint.close()
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_STOP_S)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def _wait(self, timeout: float) -> str:
        """The server's address, once it answers there."""
        if not self._told.wait(timeout):
            raise BackendError(f"the server did not start within {timeout:.0f} s; it said:\n{self._words()}")
        if self._address is None:
            code = self._process.wait()
            raise BackendError(f"the server ended with exit code {code}; it said:\n{self._words()}")
        return self._address

    def _words(self) -> str:
        return "".join(self._said).rstrip()

    def _read(self, output: IO[str]) -> None:
        """Follow what the server says: an error shows its last words, and a full pipe would stop it."""
        with output:
            for line in output:
                self._said.append(line)
                if self._address is None and (found := _ADDRESS.search(line)) is not None:
                    self._address = found[1]
                    self._told.set()
        self._told.set()


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """The command line: `{"tp_size": 2, "enable_x": True}` -> `["--tp-size", "2", "--enable-x"]`."""
    line: list[str] = []
    for name, value in arguments.items():
        if value is None or value is False:
            continue
        line.append("--" + name.replace("_", "-"))
        if value is not True:
            line += map(str, value) if isinstance(value, list | tuple) else [str(value)]
    return line
