"""What is installed here, what a model would run on, and whether one can be run at all."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import resq_onnx
from resq_onnx.errors import ResqError, first_line
from resq_onnx.evaluation.installation import Package, is_there, packages_by_extra, pip_line
from resq_onnx.evaluation.machine import Gpu, describe_machine, find_gpus
from resq_onnx.resources import available_bytes, total_bytes
from resq_onnx.runtime import library
from resq_onnx.web.packages import cache_folder


@dataclass(frozen=True)
class Kernels:
    """The compiled operators.

    Attributes:
        used: The instruction set whose kernels run.
        available: All that this CPU can run, best first.
        path: The library.
        cuda_path: The library for CUDA; None if it was not built.
    """

    used: str
    available: tuple[str, ...]
    path: Path
    cuda_path: Path | None


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        version: Of this package.
        folder: From which it was imported.
        python: Version, and where it is.
        system: The operating system.
        cpu: As the system calls it.
        cores: That this process may use.
        instruction_sets: Of the CPU, those that matter to integer arithmetic.
        memory: Bytes by name: `total`, and `available` without swapping.
        kernels: None if they do not load.
        providers: Those of the installed onnxruntime.
        gpus: As nvidia-smi shows them.
        caches: By what they hold, folders.
        packages: By extra, what this package asks for.
        problems: Why no model can be run, each with what to do.
    """

    version: str
    folder: Path
    python: str
    system: str
    cpu: str
    cores: int
    instruction_sets: tuple[str, ...]
    memory: Mapping[str, int]
    kernels: Kernels | None
    providers: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    caches: Mapping[str, Path]
    packages: Mapping[str, tuple[Package, ...]]
    problems: tuple[str, ...]


def diagnose() -> Diagnosis:
    """Look at this machine and what is installed; nothing is changed, and nobody is asked."""
    packages, machine = packages_by_extra(), describe_machine()
    problems = _absent(packages)
    kernels = _kernels(problems)
    providers = _providers(problems, register=kernels is not None)
    return Diagnosis(
        version=resq_onnx.__version__,
        folder=Path(resq_onnx.__file__).parent,
        python=f"{platform.python_version()}, {sys.executable}",
        system=platform.platform(),
        cpu=machine.cpu,
        cores=machine.cores,
        instruction_sets=machine.instruction_sets,
        memory=_memory(),
        kernels=kernels,
        providers=providers,
        gpus=find_gpus(),
        caches=_caches(),
        packages=packages,
        problems=tuple(problems),
    )


def _absent(packages: Mapping[str, tuple[Package, ...]]) -> list[str]:
    """Why what everything needs does not do; and what runs models, of which one is enough."""
    if not packages:
        return [f"resq-onnx itself is not installed; run `{pip_line('cpu')}`"]
    missing = [str(one) for one in packages[""] if not one.will_do]
    wrong = [f"{', '.join(missing)}; run `{pip_line('')}`"] if missing else []
    runtimes = [*packages["cpu"], *packages["gpu"]]
    found = next((one for one in runtimes if one.version), runtimes[0])
    of_another_package = found.version is None and is_there("onnxruntime")
    if of_another_package or any(one.will_do for one in runtimes):
        return wrong
    gpu = f"`{pip_line('gpu')}` for a GPU"
    return [*wrong, f"{found}; run `{pip_line('cpu')}`, or {gpu}"]


def _kernels(problems: list[str]) -> Kernels | None:
    try:
        path = library.library_path()
        used, available = library.instruction_set(), library.available_instruction_sets()
    except ResqError as error:
        problems.append(str(error))
        return None
    except (OSError, AttributeError) as error:
        problems.append(f"the kernels do not load: {first_line(error)}; install resq-onnx again")
        return None
    try:
        return Kernels(used, available, path, library.cuda_library_path())
    except ResqError:
        return Kernels(used, available, path, None)


def _providers(problems: list[str], *, register: bool) -> tuple[str, ...]:
    """Those of onnxruntime, which is imported, and takes the kernels if they load at all."""
    try:
        import onnxruntime

        providers = tuple(onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
    except ModuleNotFoundError:  # `_absent` has said so
        return ()
    except Exception as error:  # what is broken may raise anything
        problems.append(f"onnxruntime does not load: {first_line(error)}; install it again")
        return ()
    if register:
        try:
            library.register(options)
        except ResqError as error:
            problems.append(str(error))
    return providers


def _memory() -> dict[str, int]:
    found = {"total": total_bytes(), "available": available_bytes()}
    return {name: size for name, size in found.items() if size is not None}


def _caches() -> dict[str, Path]:
    """Where this program keeps what it fetches."""
    from huggingface_hub.constants import HF_HUB_CACHE  # of tokenizers, which is always there

    return {"models": Path(HF_HUB_CACHE), "packages of the page": cache_folder()}
