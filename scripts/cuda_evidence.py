"""Analyse the CUDA kernels without a GPU, and write the tables of docs/cuda.md.

    python -m scripts.cuda_evidence
    python -m scripts.cuda_evidence --build build/cuda-evidence --cuobjdump PATH
    python -m scripts.cuda_evidence --only roofline     # needs no nvcc

Compiles the kernels for every architecture with warnings as errors; reads registers and spills from
ptxas' log and instructions from the machine code; computes occupancy and lower bounds of times.
Fails, after writing the tables, if a kernel spills registers or lacks instructions that it needs.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from scripts import cuda_block, cuda_roofline
from scripts.cuda_binary import parse_ptxas, parse_sass, short_names
from scripts.cuda_machine import (
    Kernel,
    complaints,
    instruction_table,
    kernels_of,
    resource_table,
)

DOCUMENT: Final = Path("docs/cuda.md")
TARGET: Final = "resq_onnx_ops_cuda"
TOOLS: Final = "build/venv-cuda-tools/lib/python*/site-packages/nvidia/*/bin"


def build(folder: Path) -> tuple[Path, Path]:
    """Compile the library; returns it and the log of all compilations into this folder."""
    log, cmake = folder / "build.log", program("cmake")
    configure = ["-DRESQ_CUDA=ON", "-DRESQ_WARNINGS_AS_ERRORS=ON", "-G", "Unix Makefiles"]
    configure.append("-DCMAKE_CUDA_FLAGS=-Xptxas=-v")
    subprocess.run([cmake, "-S", "custom_ops", "-B", str(folder), *configure], check=True)
    # The lines of two compilers must not be mixed.
    command = [cmake, "--build", str(folder), "--parallel", "2", "--target", TARGET]
    with log.open("a") as out:
        done = subprocess.run(
            [*command, "--", "--output-sync=target"], stdout=out, stderr=subprocess.STDOUT
        )
    if done.returncode:
        sys.exit(f"the kernels do not compile: see {log}")
    return folder / f"lib{TARGET}.so", log


def program(name: str) -> str:
    """Find a program on the path, beside this Python, beside nvcc, or in pip's packages.

    Exits if it is not found.
    """
    nvcc = shutil.which("nvcc")
    folders = [Path(sys.executable).parent, *Path().glob(TOOLS)]
    folders += [Path(nvcc).resolve().parent] if nvcc else []
    found = shutil.which(name) or next(
        (str(folder / name) for folder in folders if (folder / name).exists()), None
    )
    if found is None:
        sys.exit(f"no {name} on the path; `make cuda-evidence` installs it")
    return found


def disassembled(library: Path, cuobjdump: str) -> Iterator[str]:
    """Lines of a library's machine code, which can exceed a hundred megabytes."""
    with subprocess.Popen(
        [cuobjdump, "--dump-sass", str(library)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        sys.exit(f"{cuobjdump} cannot read {library}")


def read_kernels(library: Path, log: Path, cuobjdump: str) -> list[Kernel]:
    """All kernels of a library on all its architectures."""
    with log.open() as lines:
        uses = parse_ptxas(lines)
    codes = parse_sass(disassembled(library, cuobjdump))
    return kernels_of(uses, codes, short_names(mangled for _, mangled in codes))


def rewritten(text: str, section: str, lines: Iterable[str]) -> str:
    """A document with new lines between the comments that mark a section.

    Raises:
        ValueError: The section is not marked exactly once.
    """
    begin, end = f"<!-- {section}: by scripts/cuda_evidence.py -->", f"<!-- /{section} -->"
    pattern = re.compile(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.DOTALL)
    content = "".join(f"{line}\n" for line in lines)
    text, count = pattern.subn(lambda _: content, text)
    if count != 1:
        raise ValueError(f"{count} sections between {begin} and {end}, expected 1")
    return text


def roofline_sections() -> dict[str, list[str]]:
    """Names and lines of the sections that depend only on sizes."""
    sections = {}
    for model in cuda_roofline.MODELS:
        sections[f"calls {model.name}"] = list(cuda_roofline.summary_table(model))
        sections[f"kernels {model.name}"] = list(cuda_roofline.kernel_table(model))
    model = cuda_roofline.MODELS[0]
    sections[f"layer {model.name}"] = list(cuda_block.layer_table(model))
    return sections


def main() -> None:
    """Print the tables, write them, and fail on violations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", type=Path, default=Path("build/cuda-evidence"))
    parser.add_argument("--cuobjdump", help="path of CUDA's cuobjdump, if it is not on PATH")
    parser.add_argument("--only", choices=("machine", "roofline"))
    options = parser.parse_args()
    wrong: list[str] = []
    sections: dict[str, list[str]] = {}
    if options.only != "roofline":
        cuobjdump = options.cuobjdump or program("cuobjdump")
        kernels = read_kernels(*build(options.build), cuobjdump)
        wrong = list(complaints(kernels))
        sections["resources"] = list(resource_table(kernels))
        sections["instructions"] = list(instruction_table(kernels))
    if options.only != "machine":
        sections |= roofline_sections()
    text = DOCUMENT.read_text()
    for name, lines in sections.items():
        print(f"\n{name}\n", *lines, sep="\n")
        text = rewritten(text, name, lines)
    DOCUMENT.write_text(text)
    if wrong:
        sys.exit("\n".join(["", "Violations:", *wrong]))


if __name__ == "__main__":
    main()
