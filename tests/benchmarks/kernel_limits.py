"""How fast a case can be at most on this machine: what its instructions and its bytes allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.benchmarks.kernel_cases import Case
from tests.benchmarks.peaks import Peaks


@dataclass(frozen=True)
class Mix:
    """Which measured peaks limit the integer sums of an instruction set; the fastest counts."""

    low: tuple[str, ...]
    high: tuple[str, ...]


MIXES: Final = {
    "avx512vnni": Mix(("dpbusd_512", "dpbusd_256"), ("dpbusd_512", "dpbusd_256")),
    "avxvnni": Mix(("dpbusd_avxvnni",), ("dpbusd_avxvnni",)),
    "avx2": Mix(("maddubs_addw",), ("maddwd",)),
}
"""By RESQ_ONNX_ISA, best first. Others (scalar, neon) have no measured integer peak."""

FLOAT: Final = ("fma", "fma_512")


@dataclass(frozen=True)
class Limits:
    """The machine's peaks for one instruction set and number of threads."""

    peaks: Peaks
    isa: str
    threads: int

    def describe(self) -> str:
        """Which peaks are used, with their rates."""
        mix = MIXES.get(self.isa)
        names = {"4-bit part": mix.low, "8-bit part": mix.high} if mix else {}
        parts = [
            f"{part} {found[0]} {found[1]:.0f} GMAC/s"
            for part, rates in {**names, "float": FLOAT}.items()
            if (found := self.peaks.fastest(rates, self.threads))
        ]
        reads = [
            f"{name} {rate:.0f} GB/s"
            for name in ("read_l2", "read_l3", "read_dram")
            if (rate := self.peaks.rate(name, self.threads))
        ]
        return f"limits of {self.isa}, {self.threads} threads: {', '.join([*parts, *reads])}"

    def compute_seconds(self, case: Case) -> float | None:
        """Time of the multiply-adds alone; None where a peak is unknown."""
        mix = MIXES.get(self.isa, Mix((), ()))
        work = ((case.low_macs, mix.low), (case.high_macs, mix.high), (case.float_macs, FLOAT))
        seconds = 0.0
        for macs, names in work:
            if macs:
                found = self.peaks.fastest(names, self.threads)
                if found is None:
                    return None
                seconds += 1e-9 * macs / found[1]
        return seconds

    def read_seconds(self, case: Case, copies: int) -> float | None:
        """Time to read what the node stores, from where all copies of it fit."""
        if not case.stored_bytes:
            return 0.0
        beyond = case.stored_bytes * copies > self.peaks.last_cache_bytes
        rate = self.peaks.rate("read_dram" if beyond else "read_l3", self.threads)
        return None if rate is None else 1e-9 * case.stored_bytes / rate

    def seconds(self, case: Case, copies: int) -> tuple[float, str] | None:
        """The longer of both, and which it is."""
        compute, read = self.compute_seconds(case), self.read_seconds(case, copies)
        if compute is None or read is None or compute == read == 0:
            return None
        return (compute, "arithmetic") if compute > read else (read, "reads")


def isa_of(kernels: str | None, peaks: Peaks) -> str:
    """That of our kernels; without them the best one whose peaks were measured."""
    if kernels:
        return kernels
    measured = {name for name, _ in peaks.rates}
    return next((isa for isa, mix in MIXES.items() if set(mix.low) & measured), "scalar")
