# SPDX-License-Identifier: Apache-2.0
"""What `sgl_lang.__all__` names, with signatures, against the committed `public_api.txt`.

A difference is a decision: run this file as a script to write it down.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sgl_lang
from sgl_lang.backends._vendor import Vendor

SNAPSHOT = Path(__file__).with_name("public_api.txt")
_MADE_ELSEWHERE = (
    sgl_lang.Backend,
    sgl_lang.Program,
    sgl_lang.State,
)  # their constructors are nobody's business
_SHOWN = ("__add__", "__call__", "__contains__", "__getitem__", "__iadd__", "__radd__", "__setitem__")
_VENDORS = ("Anthropic", "OpenAI", "VertexAI")  # LiteLLM is not installed everywhere; see test_litellm.py


def _lines() -> Iterator[str]:
    for name in sorted([*sgl_lang.__all__, *_VENDORS]):
        value = getattr(sgl_lang, name)
        if inspect.isclass(value):
            yield f"class {name}({', '.join(base.__name__ for base in value.__bases__)}){_parameters(value)}"
            yield from _members(value)
            if name in _VENDORS:
                yield from _members(Vendor)
        elif callable(value):
            yield f"def {name}{_parameters(value)}"
        else:
            yield f"{name}: {type(value).__name__}"


def _members(owner: type) -> Iterator[str]:
    for name, member in sorted(vars(owner).items()):
        if name.startswith("_") and name not in _SHOWN:
            continue
        if isinstance(member, property):
            yield f"    {name}: {_returns(member.fget)}"
        elif inspect.isfunction(member):
            yield f"    def {name}{_parameters(member)}"


def _parameters(value: Any) -> str:
    if value in _MADE_ELSEWHERE or (inspect.isclass(value) and issubclass(value, Exception)):
        return ""
    signature = str(inspect.signature(value)).replace("'", "").replace("<factory>", "...")
    return re.sub(r"ForwardRef\((\w+)\)", r"\1", signature)  # named tuples, up to Python 3.13


def _returns(getter: Any) -> str:
    return str(inspect.signature(getter).return_annotation)


def test_the_public_names_are_the_committed_ones():
    assert SNAPSHOT.read_text(encoding="utf-8").splitlines() == list(_lines())


def test_everything_public_is_documented():
    undocumented = [
        name
        for name in [*sgl_lang.__all__, *_VENDORS]
        if not name.startswith("__") and not inspect.getdoc(getattr(sgl_lang, name))
    ]
    assert undocumented == []


def test_names_that_do_not_exist():
    assert not hasattr(sgl_lang, "no_such_name")
    assert set(sgl_lang.__all__) <= set(dir(sgl_lang))
    assert sgl_lang.__all__ == sorted(sgl_lang.__all__)


_IMPORT = """
import sys, threading, time
start = time.process_time()  # other processes do not count
import sgl_lang
seconds = time.process_time() - start
heavy = {"httpx", "torch", "numpy", "transformers"} & set(sys.modules)
assert not heavy, heavy
assert threading.active_count() == 1
from sgl_lang import *
assert RuntimeEndpoint.__name__ == "RuntimeEndpoint" and "httpx" in sys.modules
sys.stdout.write(str(seconds))
"""


def test_importing_is_quick_and_brings_no_http_client():
    command = [sys.executable, "-c", _IMPORT]
    runs = (float(subprocess.check_output(command, text=True, timeout=60)) for _ in range(3))
    assert any(seconds < 0.15 for seconds in runs)


_RACE = """
import threading
errors = []
def use():
    try:
        import sgl_lang as sgl
        assert sgl.RuntimeEndpoint("http://x").base_url == "http://x"
        assert sgl.gen("a") is not None
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=use) for _ in range(16)]
[t.start() for t in threads]; [t.join() for t in threads]
assert not errors, errors
"""


def test_importing_in_many_threads_at_once():
    subprocess.run([sys.executable, "-c", _RACE], check=True, timeout=60)


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(_lines()) + "\n", encoding="utf-8")
