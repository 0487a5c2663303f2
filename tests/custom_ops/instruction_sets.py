"""The instruction sets a test runs for, each in a process of its own."""

from __future__ import annotations

from typing import Final

import pytest

from resq_onnx.runtime import library

NAMES: Final = ("scalar", "avx2", "avxvnni", "avx512vnni", "neon")
"""All there are; which of them run depends on the machine."""


def skip_unless_available(name: str) -> None:
    """Skip a test where this machine, or the build, has no kernels of an instruction set."""
    available = library.available_instruction_sets()
    if name not in available:
        pytest.skip(f"this machine runs {', '.join(available)}, not {name}")
