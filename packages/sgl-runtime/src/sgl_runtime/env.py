# SPDX-License-Identifier: Apache-2.0
"""`sgl-runtime env`: what this machine and this installation are, for a report of a problem.

A missing or broken piece is a line of the report, never its end: each question is asked alone, and torch and
the kernels are imported by name, so that they may be absent. No variable of the environment and no
setting of the user is told.
"""

from __future__ import annotations

import importlib
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

Report = dict[str, dict[str, Any]]  # section -> question -> answer

_OURS: Final = ("sgl-runtime", "sgl-kernels", "sgl-constrain", "sgl-lang")
_THEIRS: Final = (
    "torch", "triton", "flashinfer-python", "numpy", "safetensors", "gguf", "tokenizers", "transformers",
    "huggingface-hub", "modelscope", "msgspec", "pyzmq", "starlette", "hypercorn", "httpx", "aiohttp",
    "matplotlib", "openai", "anthropic", "vllm", "sglang",
)  # fmt: skip
_TOOLS: Final = ("nvcc", "ninja", "gcc")
# What importing a half-installed torch, or asking it of a half-installed driver, is known to raise.
_BROKEN: Final = (ImportError, OSError, RuntimeError, AttributeError, ValueError)
_SMI_S: Final = 10.0
_GIB: Final = 1 << 30
_DRIVER: Final = ("name", "memory.total", "memory.used", "driver_version", "compute_cap", "power.limit")


def collect() -> Report:
    """Every section; takes as long as importing torch."""
    return {
        "system": _system(),
        "packages": {name: _version(name) for name in _OURS},
        "dependencies": {name: _version(name) for name in _THEIRS},
        "torch": _asked(_torch),
        "GPUs": _gpus(),
        "kernels": _asked(_kernels),
        "constrained decoding": _asked(_constrain),
    }


def render(report: Report) -> str:
    """The report as text."""
    lines: list[str] = []
    for section, answers in report.items():
        lines.append(section)
        width = max((len(question) for question in answers), default=0)
        for question, answer in answers.items():
            first, *rest = (str(answer).rstrip().splitlines() if answer is not None else []) or [
                "not installed"
            ]
            lines.append(f"  {question:<{width}}  {first}")
            lines += [f"  {'':<{width}}  {line}" for line in rest]
        lines.append("")
    return "\n".join(lines[:-1])


def _system() -> dict[str, Any]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    answers: dict[str, Any] = {
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "OS": _os(),
        "CPU": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": f"{len(os.sched_getaffinity(0))} of {os.cpu_count()}"
        if hasattr(os, "sched_getaffinity")
        else str(os.cpu_count()),
        "memory": _memory(),
        "open files": str(files),
    }
    answers |= {tool: shutil.which(tool) or "not on the PATH" for tool in _TOOLS}
    return answers


def _os() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release()} {platform.machine()}"


def _memory() -> str:
    total, free = (_field("/proc/meminfo", name) for name in ("MemTotal", "MemAvailable"))
    if total is None or free is None:
        return "unknown"
    return " of ".join(f"{int(size.split()[0]) * 1024 / _GIB:.1f}" for size in (free, total)) + " GiB free"


def _field(file: str, name: str) -> str | None:
    """The value of the first line `name : value` of a file of /proc."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _asked(question: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    try:
        return dict(question())
    except _BROKEN as error:
        reason = (str(error).splitlines() or [""])[0]
        return {"cannot be used": f"{type(error).__name__}: {reason}"}


def _torch() -> dict[str, Any]:
    torch = importlib.import_module("torch")
    cuda = torch.cuda.is_available()
    answers = {
        "version": torch.__version__,
        "built for CUDA": torch.version.cuda or "no",
        "CUDA devices": torch.cuda.device_count() if cuda else "none",
        "threads": torch.get_num_threads(),
        "CPU features": torch.backends.cpu.get_cpu_capability(),
    }
    if cuda:
        nccl = torch.cuda.nccl.version()
        answers |= {"cuDNN": torch.backends.cudnn.version(), "NCCL": ".".join(map(str, nccl))}
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            total = torch.cuda.get_device_properties(index).total_memory
            answers[f"cuda:{index}"] = (
                f"{torch.cuda.get_device_name(index)}, compute capability {major}.{minor}, "
                f"{total / _GIB:.1f} GiB"
            )
    return answers


def _gpus() -> dict[str, Any]:
    """What the driver says, whatever torch makes of it."""
    listed = _smi(f"--query-gpu={','.join(_DRIVER)}", "--format=csv,noheader")
    if isinstance(listed, OSError):
        return {"nvidia-smi": str(listed)}
    answers: dict[str, Any] = {}
    for index, line in enumerate(listed.splitlines()):
        name, *values = (value.strip() for value in line.split(","))
        named = ", ".join(f"{key} {value}" for key, value in zip(_DRIVER[1:], values, strict=False))
        answers[f"GPU {index}"] = f"{name}: {named}"
    topology = _smi("topo", "-m")
    answers["topology"] = topology if isinstance(topology, str) else str(topology)
    return answers


def _smi(*arguments: str) -> str | OSError:
    """What nvidia-smi prints, or why it prints nothing."""
    try:
        done = subprocess.run(("nvidia-smi", *arguments), capture_output=True, text=True, timeout=_SMI_S)
    except FileNotFoundError:
        return OSError("not on the PATH")
    except subprocess.TimeoutExpired:
        return OSError(f"has not answered for {_SMI_S:.0f} s")
    except OSError as error:
        return error
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines() or ["nothing"]
        return OSError(f"exit code {done.returncode}: {said[0]}")
    return done.stdout


def _kernels() -> dict[str, Any]:
    backends = importlib.import_module("sgl_kernels").available()
    return {
        name: f"{'usable' if backend.usable else 'not usable'}: {backend.reason}"
        for name, backend in backends.items()
    }


def _constrain() -> dict[str, Any]:
    twin = importlib.import_module("sgl_constrain.twin")
    return {"twin in C": "in use" if twin.native() else "not built or switched off; masks are the same"}
