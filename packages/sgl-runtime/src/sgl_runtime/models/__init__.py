# SPDX-License-Identifier: Apache-2.0
"""Which class computes a checkpoint: module by `model_type`, class by architecture name.

There is no list to edit: a file in this folder is a model. Another distribution adds one with an entry
point of the group `sgl_runtime.models`, named like the model_type, that points to the module. A class that
the module of its model_type does not have is looked for by its name alone, in all of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import EntryPoint, entry_points

from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.models.base import Model

_GROUP = "sgl_runtime.models"


def supported() -> dict[str, str | EntryPoint]:
    """model_type -> where its module is; nothing is imported."""
    found: dict[str, str | EntryPoint] = {entry.name: entry for entry in entry_points(group=_GROUP)}
    for module in pkgutil.iter_modules(__path__):
        if module.name != "base":
            found[module.name] = f"{__name__}.{module.name}"
    return found


def model_class(config: ModelConfig) -> type[Model]:
    """The class of a checkpoint. Raises ConfigError, naming what is supported, if there is none."""
    modules = supported()
    own = modules.get(config.model_type.replace("-", "_"))
    for where in (own, *modules.values()):
        if where is not None and (found := _models_in(where).get(config.architecture)) is not None:
            return found
    if own is None:
        raise ConfigError(
            f"model_type {config.model_type!r} with architecture {config.architecture!r} is not supported; "
            f"supported: {', '.join(sorted(modules))}",
            param="model_type",
        )
    raise ConfigError(
        f"architecture {config.architecture!r} is not supported; "
        f"of model_type {config.model_type!r} there is: {', '.join(sorted(_models_in(own)))}",
        param="architectures",
    )


def _models_in(where: str | EntryPoint) -> dict[str, type[Model]]:
    """Architecture -> class. Of a module here, only its own classes: one it builds on is another family's."""
    module = importlib.import_module(where) if isinstance(where, str) else where.load()
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Model)
        and value is not Model
        and (isinstance(where, EntryPoint) or value.__module__ == where)
    }
