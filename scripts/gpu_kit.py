"""An offline kit for tests/cuda: what a machine with a GPU, nvcc and PyTorch lacks to run them.

    python -m scripts.gpu_kit assemble build/kit     # here, with a network and nvcc
    python -m scripts.gpu_kit run build/kit          # there, in a checkout, without a network

The kit has the wheels of onnxruntime-gpu, of this project with its CUDA library, and of what both
need, in pieces of at most 60 MB with SHA-256 hashes. PyTorch is not in it, nor are CUDA's and
cuDNN's libraries: those of the machine's PyTorch are used.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from scripts.pieces import DamagedError, join, split

RUNTIME: Final = "onnxruntime-gpu"
TEST_PACKAGES: Final = ("pytest", "filelock")
"""What tests/cuda imports beyond this project's own requirements."""

OF_PYTORCH: Final = ("torch", "triton", "nvidia-", "cuda-")
"""Beginnings of the names that the machine's PyTorch has brought."""

PYTHON: Final = "3.12"
"""Version of Python on the machine with the GPU."""

SITE: Final = "lib/python*/site-packages"
LIBRARY: Final = "resq_onnx/lib/libresq_onnx_ops.so"

PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def requirements(project: Path) -> list[str]:
    """What the tests need, as pip understands it."""
    record = tomllib.loads(project.read_text())["project"]
    own = [*record["dependencies"], *record["optional-dependencies"]["export"]]
    return [RUNTIME, *own, *TEST_PACKAGES]


def resolved(wanted: Iterable[str], python: str) -> list[str]:
    """Pinned packages that these need, in turn, without those of PyTorch. Nothing is downloaded."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["--dry-run", "--quiet", "--ignore-installed", "--only-binary", ":all:"]
        options += ["--python-version", python, "--target", folder, "--report", str(report)]
        command = [*PIP, "install", *options, "-c", "constraints.txt", *wanted]
        subprocess.run(command, check=True)
        return pinned(json.loads(report.read_text()))


def pinned(report: dict[str, list[dict[str, dict[str, str]]]]) -> list[str]:
    """The packages of pip's installation report, as NAME==VERSION, without those of PyTorch."""
    found = [one["metadata"] for one in report["install"]]
    return sorted(
        f"{one['name']}=={one['version']}"
        for one in found
        if not one["name"].lower().startswith(OF_PYTORCH)
    )


def assemble(folder: Path, python: str, architecture: str) -> None:
    """Download and build the wheels, and split them.

    Args:
        folder: Folder for the pieces; wheels go to `wheels` in it.
        python: Version of Python on the machine.
        architecture: Of its GPU, such as 90; empty for all.
    """
    wheels = folder / "wheels"
    packages = resolved(requirements(Path("pyproject.toml")), python)
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", python]
    subprocess.run([*PIP, "download", *options, "-d", str(wheels), *packages], check=True)
    ours = ["--no-deps", "-w", str(wheels), "-C", "cmake.define.RESQ_CUDA=ON"]
    ours += ["-C", f"cmake.define.RESQ_CUDA_ARCH={architecture}"]
    ours += ["-C", f"build-dir={folder / 'build'}", "."]  # not that of this environment
    subprocess.run([*PIP, "wheel", *ours], check=True)
    split(wheels.glob("*.whl"), folder)
    print(f"{sum(1 for _ in wheels.glob('*.whl'))} wheels; carry {folder} without {wheels}")


def cuda_folders(site: Path) -> list[str]:
    """Folders of PyTorch's packages that hold CUDA's and cuDNN's libraries."""
    return sorted({str(library.parent) for library in site.glob("nvidia/**/lib/*.so*")})


def install(folder: Path) -> Path:
    """Install a kit's wheels into an environment over the machine's own; returns its Python.

    Raises:
        DamagedError: A piece is missing or damaged.
    """
    wheels, environment = join(folder, folder / "joined"), folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
    python = environment / "bin" / "python"
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    command = [str(python), "-m", "pip", "install", *options, *map(str, wheels)]
    subprocess.run(command, check=True)
    # What is not in the kit, such as PyTorch, comes from the machine, behind the kit's packages.
    machine = sysconfig.get_path("purelib")
    site = next(environment.glob(SITE))
    (site / "machine.pth").write_text(f"import site; site.addsitedir({machine!r})\n")
    return python


def run(folder: Path, arguments: list[str]) -> int:
    """Install a kit, and run tests/cuda with it; returns pytest's exit code."""
    python = str(install(folder))
    libraries = cuda_folders(Path(sysconfig.get_path("purelib")))
    path = os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).strip(os.pathsep)
    environment = {**os.environ, "LD_LIBRARY_PATH": path}
    # pytest imports the checkout's resq_onnx, which has no libraries.
    site = next((folder / "environment").glob(SITE))
    environment["RESQ_ONNX_LIBRARY"] = str((site / LIBRARY).resolve())
    tests = [python, "-m", "pytest", "-m", "cuda", "tests/cuda", *arguments]
    code = subprocess.run(tests, env=environment).returncode
    subprocess.run([python, "-m", "tests.cuda.gpu"], env=environment)
    return code


def main() -> None:
    """Assemble a kit, or run the tests with one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("assemble", "run"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=PYTHON, help="version there; default %(default)s")
    parser.add_argument("--architecture", default="", help="of its GPU, such as 90; default all")
    options, rest = parser.parse_known_args()
    if options.what == "assemble":
        assemble(options.folder, options.python, options.architecture)
        return
    try:
        sys.exit(run(options.folder, rest))
    except DamagedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
