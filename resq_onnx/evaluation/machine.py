"""Describe the machine of a measurement: CPU, GPU, kernels and package versions."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resq_onnx.errors import ResqError
from resq_onnx.runtime import library
from resq_onnx.runtime.providers import CPU

INSTRUCTION_SETS: Final = {
    "avx2": "AVX2",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512-VNNI",
    "asimd": "NEON",
    "asimddp": "NEON dotprod",
    "i8mm": "NEON i8mm",
}
"""Instruction sets that matter for integer arithmetic, by their names in /proc/cpuinfo."""

PACKAGES: Final = ("resq-onnx", "onnxruntime", "numpy")

GPU_PACKAGES: Final = ("resq-onnx", "onnxruntime-gpu", "numpy")

GPU_QUERY: Final = ("name", "driver_version", "memory.total")


@dataclass(frozen=True)
class Gpu:
    """A graphics card, as nvidia-smi describes it.

    Attributes:
        name: The maker's name.
        driver: Version of the driver.
        memory: Size with unit.
    """

    name: str
    driver: str
    memory: str

    def __str__(self) -> str:
        return f"{self.name} ({self.memory}), driver {self.driver}"


@dataclass(frozen=True)
class Machine:
    """Hardware and software of a measurement.

    Attributes:
        cpu: The system's name for the CPU.
        cores: Number of cores that this process may use.
        instruction_sets: Those of `INSTRUCTION_SETS` that the CPU has.
        kernels: The instruction set of the compiled operators; None if unknown.
        versions: Versions of `PACKAGES` or `GPU_PACKAGES`, of Python and, on a GPU, of CUDA.
        gpu: The GPU of the measurement; None on a CPU, or if nvidia-smi fails.
    """

    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    kernels: str | None
    versions: dict[str, str]
    gpu: Gpu | None = None


def describe_machine(provider: str = CPU) -> Machine:
    """Describe this machine; unknown properties are omitted.

    Args:
        provider: Execution provider of the models; a GPU is described only if they run on it.
    """
    on_gpu = provider != CPU
    entries = _cpu_entries()
    flags = (entries.get("flags") or entries.get("Features") or "").split()
    return Machine(
        cpu=entries.get("model name") or platform.processor() or platform.machine(),
        cores=_usable_cores(),
        instruction_sets=tuple(name for flag, name in INSTRUCTION_SETS.items() if flag in flags),
        kernels=_kernels(),
        versions={name: _version(name) for name in (GPU_PACKAGES if on_gpu else PACKAGES)}
        | {"python": platform.python_version()}
        | (_cuda_version() if on_gpu else {}),
        gpu=_gpu() if on_gpu else None,
    )


def _gpu() -> Gpu | None:
    """The first GPU that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    return next(iter(find_gpus("-i", visible)), None)


def find_gpus(*which: str) -> tuple[Gpu, ...]:
    """All graphics cards that nvidia-smi shows, or those that its arguments `which` choose."""
    asked = ["nvidia-smi", f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader"]
    try:
        told = subprocess.run([*asked, *which], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ()
    lines = ([field.strip() for field in line.split(",")] for line in told.stdout.splitlines())
    return tuple(Gpu(*fields) for fields in lines if len(fields) == len(GPU_QUERY))


def _cuda_version() -> dict[str, str]:
    """The CUDA version for which ONNX Runtime was built."""
    import onnxruntime

    version = getattr(onnxruntime, "cuda_version", None)
    return {"CUDA": str(version)} if version else {}


def _cpu_entries() -> dict[str, str]:
    """The entries of the first processor in /proc/cpuinfo; empty if there is no such file."""
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
        loaded = ctypes.CDLL(str(library.library_path()))
        name = loaded.resq_onnx_isa
    except (ResqError, OSError, AttributeError):
        return None
    name.restype = ctypes.c_char_p
    return name().decode() or None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
