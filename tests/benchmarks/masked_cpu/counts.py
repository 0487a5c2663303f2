"""What a process executed, as audit.cpp counted."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

COUNTS: Final = Struct("<5Q")


@dataclass(frozen=True)
class Counts:
    """The C++ struct of this name.

    Attributes:
        answered: cpuid instructions that were answered in the place of the CPU.
        samples: Of the program counter, at regular CPU times.
        vex: Samples at instructions of AVX, AVX2, FMA and others with that prefix.
        evex: Samples at instructions of AVX-512.
        vnni: Samples at VNNI's dot products, of AVX-512 and of AVX-VNNI.
    """

    answered: int
    samples: int
    vex: int
    evex: int
    vnni: int

    @classmethod
    def read(cls, data: bytes) -> Counts:
        """From the bytes of that struct."""
        return cls(*COUNTS.unpack(data))
