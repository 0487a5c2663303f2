"""What a build of the CUDA kernels says of them: ptxas' lines, and the machine code."""

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
"""Instructions that are counted, by what they do."""

SHORTER: Final = (
    ("resq::cuda::", ""),
    ("(anonymous namespace)::", ""),
    ("__nv_bfloat16", "bfloat16"),
    ("__half", "half"),
)


@dataclass
class Use:
    """What ptxas gave a kernel on one architecture; bytes of a thread, static shared of a block."""

    registers: int = 0
    stack: int = 0
    spilled: int = 0
    static_shared: int = 0


@dataclass
class Code:
    """A kernel's machine code: how many of its instructions are of each class, and how many all."""

    classes: Counter[str] = field(default_factory=Counter)
    instructions: int = 0


def parse_ptxas(lines: Iterable[str]) -> dict[Key, Use]:
    """The log of a build with `-Xptxas -v`; of a kernel that was compiled twice, the last time.

    A kernel's lines follow each other, so the log of several compilers at once must not mix them
    (`make --output-sync`). Functions that a kernel calls come with it, and their spills count.
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
    """What `cuobjdump --dump-sass` prints of a library with several architectures."""
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
    """The classes of an instruction, written with its modifiers: at most one."""
    return (name for name, pattern in CLASSES.items() if pattern.match(instruction))


def short_name(demangled: str) -> str:
    """`multiply_few_rows<16, 1>` of a demangled signature."""
    for long, short in SHORTER:
        demangled = demangled.replace(long, short)
    name = demangled.partition("(")[0]
    return name.removeprefix("void ").strip()


def short_names(mangled: Iterable[str]) -> dict[str, str]:
    """Mangled names and what `c++filt`, which comes with the C++ compiler, makes of them, short."""
    names = sorted(set(mangled))
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, text=True, stdout=subprocess.PIPE
    )
    return dict(zip(names, map(short_name, done.stdout.splitlines()), strict=True))
