"""Parse a build of the CUDA kernels: the log of ptxas, and the machine code."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

Key = tuple[str, str]
"""An architecture, such as `sm_80`, and a kernel's mangled name."""

ENTRY: Final = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
FRAME: Final = re.compile(
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
REGISTERS: Final = re.compile(r"Used (\d+) registers")
STATIC_SHARED: Final = re.compile(r"(\d+) bytes smem")

ARCHITECTURE: Final = re.compile(r"^\s*arch = (sm_\w+)")
FUNCTION: Final = re.compile(r"^\s*Function : (\S+)")
INSTRUCTION: Final = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")

CLASSES: Final[dict[str, re.Pattern[str]]] = {
    "int8 mma": re.compile(r"IMMA\.\w+\.[SU]8\."),
    "int4 mma": re.compile(r"IMMA\.\w+\.[SU]4\."),
    "half mma": re.compile(r"HMMA\."),
    "ldmatrix": re.compile(r"LDSM\."),
    "16-byte loads": re.compile(r"LDG\.(?=.*\.128)"),
    "16-byte cp.async": re.compile(r"LDGSTS\.(?=.*\.128)"),
    "4-byte cp.async": re.compile(r"LDGSTS\.(?!.*\.(?:64|128))"),
}
"""Classes of instructions that are counted."""

SHORTER: Final = (
    ("resq::cuda::", ""),
    ("(anonymous namespace)::", ""),
    ("__nv_bfloat16", "bfloat16"),
    ("__half", "half"),
)


@dataclass
class Use:
    """Resources of a kernel on one architecture, in bytes per thread; static shared per block."""

    registers: int = 0
    stack: int = 0
    spilled: int = 0
    static_shared: int = 0


@dataclass
class Code:
    """A kernel's machine code: number of instructions by class, and in total."""

    classes: Counter[str] = field(default_factory=Counter)
    instructions: int = 0


def parse_ptxas(lines: Iterable[str]) -> dict[Key, Use]:
    """Parse the log of a build with `-Xptxas -v`; the last compilation of a kernel counts.

    A kernel's lines must be consecutive, so parallel compilers must not mix their output
    (`make --output-sync`). Spills of the functions that a kernel calls are included.
    """
    uses: dict[Key, Use] = {}
    use = Use()
    for line in lines:
        if match := ENTRY.search(line):
            use = uses[match[2], match[1]] = Use()
        elif match := FRAME.search(line):
            use.stack = max(use.stack, int(match[1]))
            use.spilled += int(match[2]) + int(match[3])
        elif match := REGISTERS.search(line):
            use.registers = int(match[1])
            shared = STATIC_SHARED.search(line)
            use.static_shared = int(shared[1]) if shared else 0
    return uses


def parse_sass(lines: Iterable[str]) -> dict[Key, Code]:
    """Parse the output of `cuobjdump --dump-sass` for a library with several architectures."""
    codes: dict[Key, Code] = {}
    architecture, code = "", Code()
    for line in lines:
        if match := INSTRUCTION.match(line):
            code.instructions += 1
            code.classes.update(classes_of(match[1]))
        elif match := FUNCTION.match(line):
            code = codes[architecture, match[1]] = Code()
        elif match := ARCHITECTURE.match(line):
            architecture = match[1]
    return codes


def classes_of(instruction: str) -> Iterator[str]:
    """The classes of an instruction with its modifiers: at most one."""
    return (name for name, pattern in CLASSES.items() if pattern.match(instruction))


def short_name(demangled: str) -> str:
    """Short form of a demangled signature, such as `multiply_few_rows<16, 1>`."""
    for long, short in SHORTER:
        demangled = demangled.replace(long, short)
    name = demangled.partition("(")[0]
    return name.removeprefix("void ").strip()


def short_names(mangled: Iterable[str]) -> dict[str, str]:
    """Short names by mangled names, demangled by `c++filt`, which comes with the C++ compiler."""
    names = sorted(set(mangled))
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, text=True, stdout=subprocess.PIPE
    )
    return dict(zip(names, map(short_name, done.stdout.splitlines()), strict=True))
