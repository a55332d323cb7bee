# SPDX-License-Identifier: Apache-2.0
"""Names to parameters: every tensor is placed once and every parameter filled once, or nothing starts.

One loop for all models: `Model.packed` says which tensors are stacked in which parameter, `Model.paths` what
a checkpoint calls the modules, `Shard` which slice of each tensor this rank holds.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Linear, LogitsHead
from sgl_runtime.models.base import Joined, Model
from sgl_runtime.parallel.shard import Misfit, PartName, Shard
from sgl_runtime.runner.stream import on_stream
from sgl_runtime.runner.tensors import StoredTensor

Progress: TypeAlias = Callable[[int, int], None]  # (tensors read, tensors in all)

_SHOWN = 8  # names of one list in an error message
_READERS = 8  # threads at most: more do not make one disk or one bus faster


@dataclass(frozen=True)
class Place:
    """Where one tensor of the checkpoint goes: into one part of a parameter, or several of them.

    groups: it holds so many blocks, each with a share of every part.
    """

    shard: Shard
    joined: Joined
    groups: int = 1

    @property
    def filled(self) -> bool:
        return self.shard.missing.isdisjoint(self.joined.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole tensor as the checkpoint stores it."""
        shape = self._stored(self.joined.parts[0])
        shape[self._along] = sum(self._lengths())
        return tuple(shape)

    def load(self, tensor: Tensor) -> None:
        """Copy this rank's slice of each part. Raises Misfit, on a wrong shape before anything is copied."""
        if tuple(tensor.shape) != self.shape:
            raise Misfit(f"stored as {list(tensor.shape)}, expected {list(self.shape)}")
        if len(self.joined.parts) == 1:
            self._put(self.joined.parts[0], tensor)
            return
        along = self._along
        blocks = tensor.unflatten(along, (self.groups, -1))
        sizes = [length // self.groups for length in self._lengths()]
        for part, block in zip(self.joined.parts, blocks.split(sizes, dim=along + 1), strict=True):
            self._put(part, block.flatten(along, along + 1))

    def _put(self, part: PartName, tensor: Tensor) -> None:
        self.shard.load(tensor.mT if self.joined.transposed else tensor, part)

    def _stored(self, part: PartName) -> list[int]:
        """Shape of one part as the checkpoint stores it."""
        shape = self.shard.stored_shape(part)
        return list(reversed(shape) if self.joined.transposed else shape)

    def _lengths(self) -> list[int]:
        return [self._stored(part)[self._along] for part in self.joined.parts]

    @property
    def _along(self) -> int:
        return self.shard.stacked if self.joined.along is None else self.joined.along


def places(model: Model) -> dict[str, Place]:
    """Name of a tensor in the checkpoint -> its place, for every tensor that the model needs."""
    stored_as: dict[tuple[str, PartName], tuple[str, Joined]] = {}
    for theirs, (ours, what) in model.packed.items():
        joined = what if isinstance(what, Joined) else Joined((what,))
        stored_as |= dict.fromkeys(((ours, name) for name in joined.parts), (theirs, joined))
    renamed = _renaming(model.paths)
    found: dict[str, Place] = {}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, Shard), f"{name} does not know what fills it"
        path, _, leaf = name.rpartition(".")
        parent, dot, module = path.rpartition(".")
        for part in parameter.parts:
            theirs, joined = (module, Joined((None,))) if part is None else stored_as[module, part]
            groups = model.config.kv_heads if joined.by_kv_head else 1
            found[renamed(f"{parent}{dot}{theirs}.{leaf}")] = Place(parameter, joined, groups)
    return found


def fill(model: Model, tensors: Sequence[StoredTensor], progress: Progress | None = None) -> None:
    """Load every tensor into its parameter, several at a time, then let the layers repack what they have.

    Raises ConfigError, naming the tensors that are missing, that nothing takes, and that do not fit.
    """
    wanted = places(model)
    times = Counter(tensor.name for tensor in tensors)
    misfits = [f"{name} (stored twice)" for name, count in times.items() if count > 1 and name in wanted]
    surplus = [name for name in times if name not in wanted and not _skipped(model, name)]
    placed = [tensor for tensor in tensors if tensor.name in wanted and times[tensor.name] == 1]
    skipped = len(tensors) - len(placed)
    for done, misfit in enumerate(_load(placed, wanted), start=skipped + 1):
        if misfit is not None:
            misfits.append(misfit)
        if progress is not None:
            progress(done, len(tensors))
    missing = [name for name, place in wanted.items() if not place.filled and name not in times]
    lists = [_list("missing", missing), _list("without a place", surplus), _list("misfitting", misfits)]
    if any(lists):
        raise ConfigError(f"the weights do not fit {type(model).__name__}: {'; '.join(filter(None, lists))}")
    for module in model.modules():
        if isinstance(module, Linear | LogitsHead):
            module.finish()


def _skipped(model: Model, name: str) -> bool:
    return name.endswith(model.skip) or name.startswith(model.skip_under)


def _load(tensors: Sequence[StoredTensor], wanted: Mapping[str, Place]) -> Iterator[str | None]:
    """In order of `tensors`: None when one is in its place, else what is wrong with it.

    Threads, because reading a mapped file waits for the disk, and copying and dequantising leave the
    interpreter to others. Two of them never write to the same memory.
    """

    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def load(tensor: StoredTensor) -> str | None:
        # Both are a thread's own; what follows on the caller's stream comes after the copies.
        with torch.inference_mode(), on_stream(stream):
            try:
                wanted[tensor.name].load(tensor.read())
            except Misfit as error:
                return f"{tensor.name} ({error})"
        return None

    with ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1), "weights") as readers:
        yield from readers.map(load, tensors)


def _renaming(paths: Mapping[str, str]) -> Callable[[str], str]:
    """A function from a tensor's path here to its path in the checkpoint."""
    if not paths:
        return lambda path: path
    longest_first = "|".join(re.escape(ours) for ours in sorted(paths, key=len, reverse=True))
    piece = re.compile(rf"(?:(?<=\.)|^)({longest_first})(?=\.|$)")
    return lambda path: piece.sub(lambda match: paths[match[1]], path)


def _list(title: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {title}: {', '.join(names[:_SHOWN])}{more}"
