# SPDX-License-Identifier: Apache-2.0
"""Where a rank computes and how the ranks meet, when they cannot."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from sgl_runtime.errors import ConfigError
from sgl_runtime.parallel.rendezvous import choose_device

# In a process of its own: torch numbers the groups of a process, those that did not come about too, and both
# ends of a later one would have to agree on its number.
_REFUSALS = """
import socket, torch
from sgl_runtime.errors import ConfigError
from sgl_runtime.parallel.rendezvous import join

def refused(address, rank):
    try:
        join(address, rank, 2, torch.device("cpu"), seconds=0.2)
    except ConfigError as error:
        print(error.message)

with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
refused(address, 1)
with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    refused(f"tcp://127.0.0.1:{listener.getsockname()[1]}", 0)
"""


def test_ranks_that_do_not_come_and_an_address_in_use_are_clear_errors() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _REFUSALS], capture_output=True, text=True, check=True, timeout=300
    )
    absent, in_use = run.stdout.splitlines()
    assert re.match(r"rank 1 of 2 could not meet the others at tcp://127\.0\.0\.1:\d+: \w+", absent)
    assert re.match(r"rank 0 of 2 could not meet the others at tcp://127\.0\.0\.1:\d+: .*in use", in_use)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("cpu") == choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="--device cpu"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]
    with pytest.raises(ConfigError, match="CUDA device 2, and there are 2"):
        choose_device("cuda", 2)
