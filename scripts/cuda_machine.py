"""Tables of the compiled CUDA kernels (registers, occupancy, instructions), and checks on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from scripts.cuda_binary import CLASSES, Code, Key, Use
from scripts.cuda_occupancy import LIMITS, WARP, Launch, blocks_of, launch_of

WITH_INT4: Final = ("sm_80", "sm_86", "sm_89")
"""Architectures with 4-bit tensor cores."""


@dataclass(frozen=True)
class Kernel:
    """One kernel on one architecture."""

    name: str
    architecture: str
    use: Use
    code: Code

    @property
    def launch(self) -> Launch:
        """Launch configuration."""
        return launch_of(self.name)

    @property
    def shared(self) -> int:
        """Bytes of shared memory per block."""
        return self.use.static_shared + self.launch.dynamic_shared

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor holds at once."""
        limits = LIMITS[self.architecture]
        return blocks_of(limits, self.use.registers, self.launch.threads, self.shared)

    @property
    def is_left_out(self) -> bool:
        """Whether its body is empty, because it is never launched on this architecture."""
        return takes_nibbles(self.name) and self.architecture not in WITH_INT4


def takes_nibbles(name: str) -> bool:
    """Whether a kernel uses 4-bit tensor cores."""
    return name.startswith("multiply_many_rows<") and name.endswith("true>")


def kernels_of(
    uses: Mapping[Key, Use], codes: Mapping[Key, Code], names: Mapping[str, str]
) -> list[Kernel]:
    """The kernels of a library, by name and architecture.

    Args:
        uses: Resources by kernel, from ptxas' log.
        codes: Machine code by kernel, from the library; its keys are all kernels.
        names: Short names by mangled names.

    Raises:
        ValueError: The log lacks a kernel, or an architecture is unknown.
    """
    missing = sorted(names[mangled] for _, mangled in codes.keys() - uses.keys())
    if missing:
        raise ValueError(f"the build log lacks {', '.join(missing)}: delete the build and repeat")
    unknown = {architecture for architecture, _ in codes} - LIMITS.keys()
    if unknown:
        raise ValueError(f"scripts/cuda_occupancy.py lacks limits of {', '.join(sorted(unknown))}")
    kernels = [
        Kernel(names[mangled], architecture, uses[architecture, mangled], code)
        for (architecture, mangled), code in codes.items()
    ]
    order = list(LIMITS)
    return sorted(kernels, key=lambda k: (k.name, order.index(k.architecture)))


def expected_classes(kernel: Kernel) -> Iterator[str]:
    """Classes of instructions that a kernel must contain."""
    name, _, rest = kernel.name.partition("<")
    arguments = rest.removesuffix(">").split(", ")
    if kernel.is_left_out:
        return
    if name == "multiply_many_rows":
        yield from ("int8 mma", "ldmatrix")
        if takes_nibbles(kernel.name):
            yield "int4 mma"
        if arguments[1] != "1":
            yield f"{arguments[1]}-byte cp.async"
    elif name == "multiply_few_rows":
        yield "int8 mma"
        yield "16-byte loads"
    elif name == "flash":
        yield from ("half mma", "ldmatrix", "16-byte loads")
    elif name in ("attend_split", "prepare", "gate_and_rotate"):
        yield "16-byte loads"


def complaints(kernels: list[Kernel]) -> Iterator[str]:
    """Violations: spills, blocks that do not fit, and missing instructions."""
    for kernel in kernels:
        where = f"{kernel.name} on {kernel.architecture}"
        if kernel.use.spilled:
            yield f"{where} spills {kernel.use.spilled} bytes (stores and loads)"
        if kernel.blocks == 0:
            yield f"{where}: not one block fits on a multiprocessor"
        for name in expected_classes(kernel):
            if not kernel.code.classes[name]:
                yield f"{where} has no {name}"


def resource_table(kernels: list[Kernel]) -> Iterator[str]:
    """Table of registers per thread, blocks and warps per SM, and spills."""
    yield "| kernel | threads | shared, bytes | " + " | ".join(LIMITS) + " |"
    yield "|---" * (3 + len(LIMITS)) + "|"
    for name, row in _rows(kernels):
        some = row[0]
        cells = [f"`{name}`", f"{some.launch.threads}", f"{some.shared}"]
        yield f"| {' | '.join([*cells, *map(_resources, row)])} |"


def _resources(kernel: Kernel) -> str:
    if kernel.is_left_out:
        return "–"
    warps = kernel.blocks * -(-kernel.launch.threads // WARP)
    share = 100 * warps / LIMITS[kernel.architecture].warps
    spilled = f", **spills {kernel.use.spilled}**" if kernel.use.spilled else ""
    return f"{kernel.use.registers}: {kernel.blocks}, {warps} ({share:.0f} %){spilled}"


def instruction_table(kernels: list[Kernel]) -> Iterator[str]:
    """Table of instructions by class, for kernels that have any."""
    yield f"| kernel | {' | '.join(CLASSES)} |"
    yield "|---" * (1 + len(CLASSES)) + "|"
    for name, row in _rows(kernels):
        if any(kernel.code.classes for kernel in row):
            cells = [f"`{name}`", *(_counts(row, each) for each in CLASSES)]
            yield f"| {' | '.join(cells)} |"


def _counts(row: list[Kernel], name: str) -> str:
    """One number if all architectures agree; otherwise each number with its architectures."""
    by_count: dict[int, list[str]] = {}
    for kernel in row:
        if not kernel.is_left_out:
            architecture = kernel.architecture.removeprefix("sm_")
            by_count.setdefault(kernel.code.classes[name], []).append(architecture)
    if len(by_count) == 1:
        return f"{next(iter(by_count)) or ''}"
    return ", ".join(f"{count} ({' '.join(where)})" for count, where in by_count.items())


def _rows(kernels: list[Kernel]) -> Iterator[tuple[str, list[Kernel]]]:
    by_name: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        by_name.setdefault(kernel.name, []).append(kernel)
    yield from by_name.items()
