"""This machine's limits: compiles and runs peaks.cpp, and reads what it prints.

python -m tests.benchmarks.peaks [--threads N] [--runs R]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = Path(__file__).with_suffix(".cpp")
PROGRAM: Final = ROOT / "build" / "benchmarks" / "peaks"


@dataclass(frozen=True)
class Peaks:
    """What `peaks --json` prints, read.

    Attributes:
        cpu: The CPU's name.
        last_cache_bytes: Size of the last cache level, as the system reports it.
        rates: Median by (name, threads): GMAC/s of an instruction mix, GB/s of a read.
    """

    cpu: str
    last_cache_bytes: int
    rates: dict[tuple[str, int], float]

    @classmethod
    def read(cls, printed: dict[str, Any]) -> Peaks:
        """From the JSON object that the program prints."""
        return cls(
            cpu=printed["cpu"],
            last_cache_bytes=printed["l3_bytes"] or printed["l2_bytes"],
            rates={(peak["name"], peak["threads"]): peak["median"] for peak in printed["peaks"]},
        )

    def or_higher(self, other: Peaks) -> Peaks:
        """Of each rate the higher one: a limit that was measured while others worked is none."""
        rates = {key: max(rate, other.rates.get(key, 0.0)) for key, rate in self.rates.items()}
        return replace(self, rates=rates)

    def rate(self, name: str, threads: int) -> float | None:
        """A median; None where this CPU has no such instructions, or it was not measured."""
        return self.rates.get((name, threads))

    def fastest(self, names: tuple[str, ...], threads: int) -> tuple[str, float] | None:
        """The fastest of several, with its name; None if there is none."""
        found = [(name, rate) for name in names if (rate := self.rate(name, threads)) is not None]
        return max(found, key=lambda pair: pair[1], default=None)


def compile_program() -> Path:
    """Compile peaks.cpp unless that was done since its last edit.

    Raises:
        RuntimeError: There is no C++ compiler; $CXX may name one.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise RuntimeError("no C++ compiler to build peaks.cpp with; name one by CXX")
    if not PROGRAM.is_file() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        options = ["-O2", "-std=c++17", "-pthread", "-o", str(PROGRAM)]
        subprocess.run([compiler, str(SOURCE), *options], check=True)
    return PROGRAM


def measure(threads: int, runs: int = 9) -> Peaks:
    """Measure with 1, 2, 4, ... and `threads` threads; takes 5 to 10 seconds for each of them.

    Args:
        threads: At most so many.
        runs: Of each, of which the median is taken.
    """
    command = [str(compile_program()), "--json", "--threads", str(threads), "--runs", str(runs)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Peaks.read(json.loads(printed))


def main() -> None:
    """Pass the arguments on, and let the program print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    command = [compile_program(), "--threads", options.threads, "--runs", options.runs]
    subprocess.run(
        [str(part) for part in command] + ["--json"] * options.json,
        check=True,
    )


if __name__ == "__main__":
    main()
