"""Resources: what an export may use of a machine, and how much memory it uses.

None of it is part of the recipe.
"""

from __future__ import annotations

import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resq_onnx.control_groups import memory_limits
from resq_onnx.errors import ResqError

MEMINFO: Final = Path("/proc/meminfo")

UNITS: Final = {"": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4}
UNITS_OF_TWO: Final = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True)
class Resources:
    """What a computation may use.

    It changes no more than the last bits of a result, but for two things that need the whole model
    in memory: tuning weights by default, and a calibration text that the model writes.

    Attributes:
        device: Where PyTorch computes: `cpu`, `cuda`, `cuda:1`, or `auto`, a GPU if there is one.
        max_memory: Bytes of main memory that may be taken; None for no limit.
        work: The work folder; None for one beside the output.
        fresh: Whether finished parts of an earlier, stopped run are thrown away.
    """

    device: str = "auto"
    max_memory: int | None = None
    work: Path | None = None
    fresh: bool = False


def bytes_of(text: str) -> int:
    """The number of bytes that a text such as `8GB` or `7.5GiB` says.

    Raises:
        ResqError: It says none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    unit = (UNITS | UNITS_OF_TWO).get(found[2]) if found else None
    if found is None or unit is None:
        raise ResqError(f"{text!r} is no amount of memory; write it as 8GB or 7.5GiB")
    return int(float(found[1]) * unit)


def peak_bytes() -> int:
    """The most memory of this process that was ever resident.

    Linux says it in /proc. What getrusage says there may be the parent's: a process is born with
    its memory.
    """
    found = _status("VmHWM")
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_bytes() -> int | None:
    """The memory of this process that is resident now; None where the system does not say it."""
    return _status("VmRSS")


def total_bytes() -> int | None:
    """The memory that this process could take if nothing else ran; None where nothing says it."""
    return _least(_amount(MEMINFO, "MemTotal"), *(limit.total for limit in memory_limits()))


def available_bytes() -> int | None:
    """The memory that the machine can still give; None where nothing says it.

    A container's limit counts, too.
    """
    return _least(_amount(MEMINFO, "MemAvailable"), *(limit.left for limit in memory_limits()))


def _least(*amounts: int | None) -> int | None:
    return min((amount for amount in amounts if amount is not None), default=None)


def _status(name: str) -> int | None:
    """An amount of memory of this process."""
    return _amount(Path("/proc/self/status"), name)


def _amount(file: Path, name: str) -> int | None:
    """An amount of memory in a file of Linux's /proc."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    found = (line for line in lines if line.startswith(f"{name}:"))
    line = next(found, None)
    return None if line is None else 1024 * int(line.split()[1])
