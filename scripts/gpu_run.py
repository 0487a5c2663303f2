"""Prove and time the CUDA kernels on a GPU, within eight minutes and without a network: `make gpu`.

    python -m scripts.gpu_run                      # on a GPU; needs nvcc, CMake and PyTorch
    python -m scripts.gpu_run --rehearse build/simt  # on a CPU that acts as a GPU, small shapes

Compares all kernels with those for CPUs, times them and whole layers against float16 in PyTorch,
runs NVIDIA's sanitizer and its profiler. After each stage it writes report.md and report.json into
build/gpu, so that a run that is cut off tells what it found. A stage that fails, or whose program
is not installed, is named there, and the next one begins.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.cuda_roofline import MODELS
from scripts.cuda_work import matrices, prompt, step
from scripts.gpu_report import COMPARE, HALF, KERNELS, LAYERS, NBITS, Report
from scripts.gpu_shapes import FULL, TINY, Sizes, attention_line, kernels, layers, linear_line
from scripts.gpu_stages import Outcome, Stage, run

SECONDS: Final = 470
"""For all stages together."""

MAJOR, MINOR = 75, 76
"""CUdevice_attribute of cuda.h: the parts of the compute capability."""

PROFILED: Final = "multiply_many_rows|multiply_few_rows|flash|attend_split"
"""The four kernels in which most of the time goes."""


@dataclass(frozen=True)
class Build:
    """Where compare_cuda is built, and how.

    Attributes:
        folder: CMake's build folder.
        target: Name of the program.
        options: For CMake, if the folder has to be configured.
    """

    folder: Path
    target: str
    options: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        """Path of the program."""
        return str((self.folder / "tests" / self.target).resolve())


def capability() -> int | None:
    """Of the first GPU, such as 90; None if there is no driver or no GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, value = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    parts = []
    for attribute in (MAJOR, MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
        parts.append(value.value)
    return 10 * parts[0] + parts[1]


def build_for(architecture: int, folder: Path) -> Build:
    """A build for one GPU, with Ninja where it is installed."""
    options = ["-DRESQ_CUDA=ON", "-DRESQ_TESTS=ON", f"-DRESQ_CUDA_ARCH={architecture}"]
    options += ["-G", "Ninja"] if shutil.which("ninja") else []
    return Build(folder / "build", "compare_cuda", tuple(options))


def stages(build: Build, sizes: Sizes, rehearses: bool) -> Iterator[Stage]:
    """All stages, in their order: what is cut off matters less than what comes before it."""
    program, python = build.program, sys.executable
    folder, cpus = str(build.folder), str(os.cpu_count())
    small = ("--every", "8") if rehearses else ()
    rehearse = ("--rehearse",) if rehearses else ()
    if build.options:
        yield Stage("configure", ("cmake", "-S", "custom_ops", "-B", folder, *build.options), 60)
    targets = ("--target", build.target, "--parallel", cpus)
    yield Stage("build", ("cmake", "--build", folder, *targets), 200)
    yield Stage(COMPARE, (program, *(("--quick", *small) if rehearses else ())), 120)
    yield Stage(KERNELS, (program, "--time"), 90, _lines(sizes))
    whole = tuple(line for item in layers(sizes) for line in item.lines)
    yield Stage(LAYERS, (program, "--time"), 60, whole)
    yield Stage(HALF, (python, "-m", "scripts.gpu_block", *rehearse), 90)
    yield Stage(NBITS, (python, "-m", "scripts.gpu_nbits", *rehearse), 60)
    for tool in ("memcheck", "racecheck"):
        sanitizer = (tool_path("compute-sanitizer"), "--tool", tool, "--error-exitcode", "1")
        yield Stage(tool, (*sanitizer, program, "--quick", "--every", "24"), 60)
    profiler = (tool_path("ncu"), "--kernel-name", f"regex:{PROFILED}", "--section", "SpeedOfLight")
    command = (*profiler, "--section", "Occupancy", program, "--time", "--once")
    yield Stage("profile", command, 60, profiled_lines())


def tool_path(name: str) -> str:
    """Path of one of NVIDIA's tools, which need not be on PATH; its name, if it is not found."""
    compiler, usual = shutil.which("nvcc"), Path("/usr/local/cuda/bin")
    folders = [Path(compiler).resolve().parent, usual] if compiler else [usual]
    folders += Path("/opt/nvidia").glob("nsight-compute/*")
    places = [name, *(str(folder / name) for folder in folders)]
    return next((found for found in map(shutil.which, places) if found), name)


def _lines(sizes: Sizes) -> tuple[str, ...]:
    return tuple(line for one in kernels(sizes) for line in one.lines)


def profiled_lines() -> tuple[str, ...]:
    """Llama-3-8B's gate and up, and its attention, for a prompt and for a token after it."""
    model = MODELS[0]
    gate_up, calls = matrices(model)[2], (prompt(2048), step(1, 2048))
    products = (linear_line("multiply", gate_up, call.rows) for call in calls)
    return (*products, *(attention_line("attend", model, call) for call in calls))


def run_all(all_stages: Iterator[Stage], sizes: Sizes, folder: Path) -> dict[str, Outcome]:
    """Run stages and write the report after each."""
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    end = time.monotonic() + SECONDS
    for stage in all_stages:
        outcome = run(stage, folder, end - time.monotonic())
        outcomes[stage.name] = outcome
        Report.of(outcomes, sizes).write(folder)
        print(f"{stage.name}: {outcome.state}, {outcome.seconds:.1f} s {outcome.reason}".rstrip())
    return outcomes


def main() -> None:
    """Run all stages; exit with 1 if one failed, with an error message if there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", type=Path, metavar="BUILD", help="a build over simt/")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"))
    options = parser.parse_args()
    if options.rehearse:
        build, sizes = Build(options.rehearse, "compare_cuda_simt"), TINY
    else:
        architecture = capability()
        if architecture is None:
            sys.exit("no NVIDIA GPU or driver here; `make gpu-rehearsal` runs the same on this CPU")
        build, sizes = build_for(architecture, options.folder), FULL
    every = stages(build, sizes, rehearses=options.rehearse is not None)
    outcomes = run_all(every, sizes, options.folder)
    print((options.folder / "report.md").resolve())
    sys.exit(any(one.state in ("failed", "cut off") for one in outcomes.values()))


if __name__ == "__main__":
    main()
