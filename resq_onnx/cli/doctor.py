"""The command doctor: what is installed, and whether a model can be run here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from resq_onnx.cli.console import out, print_line
from resq_onnx.errors import ResqError

if TYPE_CHECKING:
    from resq_onnx.evaluation.diagnosis import Diagnosis, Kernels
    from resq_onnx.evaluation.installation import Package

PURPOSES: Final = {"export": "To export", "serve": "To serve", "harness": "For lm-eval"}
"""By extra, what its packages are for; one row each."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def doctor(as_json: bool) -> None:
    """Show what is installed, on what models run, and whether they can.

    Ends with status 1 if no model can be run, and says why. Whatever is absent, the line that
    installs it is beside it.
    """
    from resq_onnx.cli.printing import print_json
    from resq_onnx.evaluation.diagnosis import diagnose

    found = diagnose()
    if as_json:
        print_json(out, dataclasses.asdict(found))
    else:
        for name, value in _rows(found):
            print_line(f"{name:<15}{value}")
    if found.problems:
        raise ResqError(f"no model can be run: {'; '.join(found.problems)}")
    if not as_json:
        print_line("Models can be run.")


def _rows(found: Diagnosis) -> Iterator[tuple[str, str]]:
    yield "resq-onnx", f"{found.version}, {found.folder}"
    yield "Python", found.python
    yield "System", found.system
    sets = ", ".join(found.instruction_sets) or "no instruction sets that kernels use"
    yield "CPU", f"{found.cpu}, {found.cores} cores; {sets}"
    if found.memory:
        sizes = (f"{size / 2**30:.1f} GiB {name}" for name, size in found.memory.items())
        yield "Memory", ", ".join(sizes)
    yield "Kernels", _kernels(found.kernels)
    cuda = found.kernels.cuda_path if found.kernels else None
    yield "CUDA kernels", str(cuda or "not built")
    yield "GPU", "; ".join(map(str, found.gpus)) or "none that nvidia-smi shows"
    yield "Providers", ", ".join(found.providers) or "none"
    for name, folder in found.caches.items():
        yield "Cache", f"{folder} ({name}{'' if folder.is_dir() else ', empty'})"
    yield from _packages(found)


def _kernels(kernels: Kernels | None) -> str:
    if kernels is None:
        return "none"
    return (
        f"{kernels.used}, of {', '.join(kernels.available)} (RESQ_ONNX_ISA chooses); {kernels.path}"
    )


def _packages(found: Diagnosis) -> Iterator[tuple[str, str]]:
    if not found.packages:
        return
    yield "Packages", _listed(found.packages[""], "")
    runtimes = [*found.packages["cpu"], *found.packages["gpu"]]
    there = tuple(one for one in runtimes if one.version) or found.packages["cpu"]
    yield "To run", _listed(there, "cpu")
    for extra, purpose in PURPOSES.items():
        yield purpose, _listed(found.packages[extra], extra)


def _listed(packages: tuple[Package, ...], extra: str) -> str:
    """Packages with their versions; behind those that do not do, what installs them."""
    from resq_onnx.evaluation.installation import pip_line

    ready = all(one.will_do for one in packages)
    return ", ".join(map(str, packages)) + ("" if ready else f": {pip_line(extra)}")
