# SPDX-License-Identifier: Apache-2.0
"""Names to parameters: every tensor is placed once and every parameter filled once, or nothing starts.

One loop for all models: `Model.packed` says which tensors are stacked in which parameter, `Shard` which
slice of each this rank holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Linear, LogitsHead
from sgl_runtime.models.base import Model
from sgl_runtime.parallel.shard import Misfit, PartName, Shard
from sgl_runtime.runner.tensors import StoredTensor

Progress: TypeAlias = Callable[[int, int], None]  # (tensors read, tensors in all)

_SHOWN = 8  # names of one list in an error message


@dataclass(frozen=True)
class Place:
    """Where one tensor of the checkpoint goes."""

    shard: Shard
    part: PartName

    @property
    def filled(self) -> bool:
        return self.part not in self.shard.missing

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shard.stored_shape(self.part)


def places(model: Model) -> dict[str, Place]:
    """Name of a tensor in the checkpoint -> its place, for every tensor that the model needs."""
    stored_as = {ours: theirs for theirs, ours in model.packed.items()}
    found: dict[str, Place] = {}
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, Shard), f"{name} does not know what fills it"
        path, _, leaf = name.rpartition(".")
        parent, dot, module = path.rpartition(".")
        for part in parameter.parts:
            theirs = module if part is None else stored_as[module, part]
            found[f"{parent}{dot}{theirs}.{leaf}"] = Place(parameter, part)
    return found


def fill(model: Model, tensors: Sequence[StoredTensor], progress: Progress | None = None) -> None:
    """Load every tensor into its parameter, then let the layers repack what they have.

    Raises ConfigError, naming the tensors that are missing, that nothing takes, and that do not fit.
    """
    wanted = places(model)
    surplus: list[str] = []
    misfits: list[str] = []
    for done, tensor in enumerate(tensors, start=1):
        place = wanted.get(tensor.name)
        if place is not None:
            try:
                place.shard.load(tensor.read(), place.part)
            except Misfit as error:
                misfits.append(f"{tensor.name} ({error})")
        elif not tensor.name.endswith(model.skip):
            surplus.append(tensor.name)
        if progress is not None:
            progress(done, len(tensors))
    stored = {tensor.name for tensor in tensors}
    missing = [name for name, place in wanted.items() if not place.filled and name not in stored]
    lists = [_list("missing", missing), _list("without a place", surplus), _list("misfitting", misfits)]
    if any(lists):
        raise ConfigError(f"the weights do not fit {type(model).__name__}: {'; '.join(filter(None, lists))}")
    for module in model.modules():
        if isinstance(module, Linear | LogitsHead):
            module.finish()


def _list(title: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {title}: {', '.join(names[:_SHOWN])}{more}"
