# SPDX-License-Identifier: Apache-2.0
"""Rank 1 of 2: obeys orders that arrive pickled on standard input."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path

import torch

from sgl_runtime.messages import Batch, decoder
from sgl_runtime.parallel.rendezvous import join
from sgl_runtime.runner.runner import Runner


def main() -> None:
    spec = importlib.util.spec_from_file_location(
        "driver", Path(__file__).parents[1] / "runner" / "driver.py"
    )
    assert spec is not None and spec.loader is not None
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    torch.set_num_threads(1)
    tp = join(sys.argv[1], 1, 2, torch.device("cpu"))
    decode = decoder(Batch).decode
    runner: Runner | None = None
    while True:
        match pickle.load(sys.stdin.buffer):
            case ["make", folder, settings]:
                runner = driver.make_runner(folder, tp=tp, **settings)
            case ["forward", data]:
                assert runner is not None
                runner.forward(decode(data))
            case ["all_reduce", x]:
                tp.all_reduce(x)
            case ["all_gather", x, sizes]:
                tp.all_gather(x, sizes)
            case ["broadcast and all_reduce", x]:
                tp.all_reduce(tp.broadcast(x))
            case ["close"]:
                tp.close()
                return


if __name__ == "__main__":
    main()
