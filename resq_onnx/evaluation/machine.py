"""What a figure of speed must say of where it was measured."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resq_onnx import custom_ops
from resq_onnx.errors import ResqError

INSTRUCTION_SETS: Final = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512-VNNI",
    "asimd": "NEON",
    "asimddp": "NEON dotprod",
    "i8mm": "NEON i8mm",
}
"""By the kernel's name for it, what matters to integer arithmetic."""

PACKAGES: Final = ("resq-onnx", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Machine:
    """Where and with what something was measured.

    Attributes:
        cpu: As the system calls it.
        cores: That this process may use.
        instruction_sets: Of `INSTRUCTION_SETS`, those the CPU has.
        kernels: The instruction set of the compiled operators; None if they do not say.
        versions: Of `PACKAGES`, and of Python.
    """

    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    kernels: str | None
    versions: dict[str, str]


def describe_machine() -> Machine:
    """Look at this machine; what it does not tell is left out."""
    entries = _cpu_entries()
    flags = (entries.get("flags") or entries.get("Features") or "").split()
    return Machine(
        cpu=entries.get("model name") or platform.processor() or platform.machine(),
        cores=_usable_cores(),
        instruction_sets=tuple(name for flag, name in INSTRUCTION_SETS.items() if flag in flags),
        kernels=_kernels(),
        versions={name: _version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
    )


def _cpu_entries() -> dict[str, str]:
    """The entries of the first processor in /proc/cpuinfo; none where there is no such file."""
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _kernels() -> str | None:
    try:
        library = ctypes.CDLL(str(custom_ops.library_path()))
        name = library.resq_onnx_isa
    except (ResqError, OSError, AttributeError):
        return None
    name.restype = ctypes.c_char_p
    return name().decode() or None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
