# SPDX-License-Identifier: Apache-2.0
"""Two ranks over gloo: this process is rank 0, `second_rank.py` in a child process does what it is told.

A process has one group for its life, so all tests of a session share one pair.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from sgl_runtime.errors import ConfigError
from sgl_runtime.messages import Batch, encode
from sgl_runtime.parallel.rendezvous import join
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.runner.pending import Pending
from sgl_runtime.runner.runner import Runner

_SECONDS = 60.0


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"


class Pair:
    def __init__(self) -> None:
        address = free_address()
        script = Path(__file__).with_name("second_rank.py")
        self._child = subprocess.Popen([sys.executable, str(script), address], stdin=subprocess.PIPE)
        try:
            self.tp: TensorParallel = join(address, 0, 2, torch.device("cpu"), seconds=_SECONDS)
        except ConfigError:
            self._child.kill()
            self._child.communicate()
            raise

    def tell(self, *order: Any) -> None:
        assert self._child.stdin is not None
        pickle.dump(order, self._child.stdin)
        self._child.stdin.flush()

    def close(self) -> None:
        self.tell("close")
        self.tp.close()
        assert self._child.stdin is not None
        self._child.stdin.close()
        assert self._child.wait(timeout=_SECONDS) == 0


_shared: list[Pair] = []


def open_pair() -> Pair:
    """The pair of this session, started when it is first needed."""
    if not _shared:
        _shared.append(Pair())
    return _shared[0]


def close_pair() -> None:
    """At the end of the session."""
    while _shared:
        _shared.pop().close()


class TwoRanks:
    """A `Runner` of two ranks with the interface of one: what `Driver` needs."""

    def __init__(self, pair: Pair, runner: Runner) -> None:
        self._pair = pair
        self._runner = runner
        self.capacity = runner.capacity

    def forward(self, batch: Batch) -> Pending:
        self._pair.tell("forward", encode(batch))
        return self._runner.forward(batch)
