"""What can be known of the CUDA kernels without a GPU, as tables in docs/cuda.md.

    python -m scripts.cuda_evidence
    python -m scripts.cuda_evidence --build build/cuda-evidence --cuobjdump PATH
    python -m scripts.cuda_evidence --only roofline     # needs no nvcc

Compiles the kernels for every architecture, warnings being errors; reads registers and spills from
ptxas' lines and instructions from the machine code; computes occupancy and floors of time. Fails,
once the tables are written, where a kernel spills registers or lacks instructions it is made of.
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

from scripts import cuda_roofline
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
    """Compile the library; returns it and the log of all compilations since the folder was new."""
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
    """Where a program is: on the path, beside this Python, beside nvcc, or what pip brought.

    Exits if it is nowhere.
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
    """Lines of a library's machine code, a hundred megabytes and more."""
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
    """A document with other lines between the comments that mark a section.

    Raises:
        ValueError: The section is not marked.
    """
    begin, end = f"<!-- {section}: by scripts/cuda_evidence.py -->", f"<!-- /{section} -->"
    pattern = re.compile(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.DOTALL)
    content = "".join(f"{line}\n" for line in lines)
    text, count = pattern.subn(lambda _: content, text)
    if count != 1:
        raise ValueError(f"{count} places between {begin} and {end}, instead of one")
    return text


def roofline_sections() -> dict[str, list[str]]:
    """Names of the sections that sizes alone make, and their lines."""
    sections = {}
    for model in cuda_roofline.MODELS:
        sections[f"calls {model.name}"] = list(cuda_roofline.summary_table(model))
        sections[f"kernels {model.name}"] = list(cuda_roofline.kernel_table(model))
    return sections


def main() -> None:
    """Print the tables, write them, and fail where something is not as it must be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", type=Path, default=Path("build/cuda-evidence"))
    parser.add_argument("--cuobjdump", help="CUDA's program of this name, if not on the path")
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
        sys.exit("\n".join(["", "Not as it must be:", *wrong]))


if __name__ == "__main__":
    main()
