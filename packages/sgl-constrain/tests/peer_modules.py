# SPDX-License-Identifier: Apache-2.0
"""Modules of engines that are not installed, for adapters to be imported against.

`recorded` makes them out of the names and parameters in `interfaces/`. `of_wheel` takes the modules that
matter from the engine's own wheel, in a folder named by SGL_PEERS, and puts `Anything` where those import the
rest:

    python -m pip download --no-deps --dest DIR vllm sglang
    SGL_PEERS=DIR pytest packages/sgl-constrain/tests
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

INTERFACES = Path(__file__).with_name("interfaces")


def interface(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((INTERFACES / f"{name}.json").read_text(encoding="utf-8"))
    return found


def wheel(name: str) -> Path | None:
    folder = os.environ.get("SGL_PEERS")
    return next(Path(folder).glob(f"{name}-*.whl"), None) if folder else None


def parameters(function: Any) -> list[str]:
    """As the interface files write them."""
    found: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            found.append(f"*{parameter.name}")
        elif parameter.kind is parameter.VAR_KEYWORD:
            found.append(f"**{parameter.name}")
        else:
            if parameter.kind is parameter.KEYWORD_ONLY and not any(name.startswith("*") for name in found):
                found.append("*")
            found.append(parameter.name + "=" * (parameter.default is not parameter.empty))
    return found


def differing(ours: type, theirs: Mapping[str, Any], *, inherited: type) -> dict[str, Any]:
    """The methods of a recorded class that ours overrides with other parameters, or that are abstract there
    and not overridden: name -> (ours, theirs)."""
    found = {}
    for name, method in theirs["methods"].items():
        mine = inspect.getattr_static(ours, name)
        if mine is inspect.getattr_static(inherited, name, None):
            if "abstractmethod" in method["marks"]:
                found[name] = (None, method["parameters"])
            continue
        expected = list(method["parameters"])
        if isinstance(mine, staticmethod) and expected[:1] == ["self"]:
            expected = expected[1:]
        if name != "__init__" and parameters(mine) != expected:
            found[name] = (parameters(mine), expected)
    return found


# -- out of the recorded interface ---------------------------------------------------------------------------


def _method(name: str, described: Mapping[str, Any]) -> Any:
    def method(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(name)

    method.__name__ = name
    if "property" in described["marks"]:
        return property(method)
    if "abstractmethod" in described["marks"]:
        return abc.abstractmethod(method)
    return staticmethod(method) if "staticmethod" in described["marks"] else method


def _initialise(self: Any, *_: Any, **__: Any) -> None:
    self.arguments = (_, __)


def _class(name: str, described: Mapping[str, Any], known: Mapping[str, Any]) -> type:
    bases = [base.rpartition(".")[2] for base in described["bases"]]
    if "Enum" in bases:
        return enum.Enum(name, described["fields"])  # type: ignore[misc]
    if name.endswith("Error"):
        return type(name, (Exception,), {"__init__": lambda self, text, **_: Exception.__init__(self, text)})
    kinds = tuple(known[base] for base in bases if base in known) or (
        (abc.ABC,) if "ABC" in bases else (object,)
    )
    body = {n: _method(n, m) for n, m in described["methods"].items()}
    if "dataclass" in described["marks"]:
        body["__annotations__"] = dict.fromkeys(described["fields"], Any)
        made: type = dataclasses.dataclass(type(kinds[0])(name, kinds, body))
        return made
    body["__init__"] = _initialise
    return type(kinds[0])(name, kinds, body)  # type: ignore[no-any-return]


@contextmanager
def recorded(name: str) -> Iterator[None]:
    modules: dict[str, ModuleType] = {}
    for path, names in sorted(interface(name)["modules"].items()):
        parts = path.split(".")
        for end in range(1, len(parts) + 1):
            full = ".".join(parts[:end])
            if full not in modules:
                modules[full] = ModuleType(full)
                modules[full].__path__ = []
                if end > 1:
                    setattr(modules[".".join(parts[: end - 1])], parts[end - 1], modules[full])
        for n, described in names.items():
            made: Any = None
            if described["kind"] == "class":
                made = _class(n, described, vars(modules[path]))
            elif described["kind"] == "function":
                made = _method(n, {"marks": []})
            setattr(modules[path], n, made)
    with _only_here(name):
        sys.modules.update(modules)
        yield


# -- out of a wheel ------------------------------------------------------------------------------------------


class Anything:
    """Takes every argument, has every attribute, can be called and subclassed."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *_: Any, **__: Any) -> Any:
        return Anything()

    def __class_getitem__(cls, _: Any) -> Any:
        return cls


class _Elsewhere(ModuleType):
    real: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if f"{self.__name__}.{name}" in self.real:  # `from package import module`
            return importlib.import_module(f"{self.__name__}.{name}")
        made = type(name, (Anything,), {})
        setattr(self, name, made)
        return made


class _Finder(MetaPathFinder, Loader):
    def __init__(self, top: str, wheel: Path, real: set[str], missing: set[str]) -> None:
        self._top, self._wheel, self._real, self._missing = top, wheel, real, missing

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname in self._real:
            return PathFinder.find_spec(
                fullname, [str(self._wheel / fullname.rpartition(".")[0].replace(".", "/"))]
            )
        if fullname.partition(".")[0] in self._missing | {self._top}:
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = _Elsewhere(spec.name)
        module.real = frozenset(self._real)
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def of_wheel(name: str, real: set[str], replaced: Mapping[str, Any], *, missing: set[str]) -> Iterator[None]:
    """real: modules to take from the wheel; replaced: what stands in the others, by `module:name`; missing:
    other packages that are not here."""
    path = wheel(name)
    assert path is not None
    with _only_here(name):
        finder = _Finder(name, path, real, {top for top in missing if importlib.util.find_spec(top) is None})
        sys.meta_path.insert(0, finder)
        try:
            for where, value in replaced.items():
                module, _, attribute = where.partition(":")
                setattr(importlib.import_module(module), attribute, value)
            yield
        finally:
            sys.meta_path.remove(finder)


@contextmanager
def _only_here(name: str) -> Iterator[None]:
    """Modules of the engine, and our adapter that imported them, are forgotten on both sides."""

    def forget() -> None:
        for module in [m for m in sys.modules if m.partition(".")[0] == name or m == f"sgl_constrain.{name}"]:
            del sys.modules[module]

    forget()
    try:
        yield
    finally:
        forget()
