"""/proc/cpuinfo as a CPU with AVX2 alone would have it."""

from __future__ import annotations

from typing import Final

MASKED_FLAGS: Final = ("avx512", "avx_vnni", "avx_ifma", "avx_ne_convert", "avx10", "amx")
"""Beginnings of names in /proc/cpuinfo."""
MASKED_WIDE: Final = {"gfni", "vaes", "vpclmulqdq", "sha512", "sm3", "sm4"}
"""Flags of vector instructions that came to CPUs together with those, or after them."""


def masked_cpuinfo(text: str) -> str:
    """/proc/cpuinfo without the flags of wider vectors and of VNNI."""
    lines = []
    for line in text.splitlines(keepends=True):
        name, colon, flags = line.partition(":")
        if name.strip() == "flags":
            kept = [flag for flag in flags.split() if not _is_masked(flag)]
            line = f"{name}{colon} {' '.join(kept)}\n"
        lines.append(line)
    return "".join(lines)


def _is_masked(flag: str) -> bool:
    return flag.startswith(MASKED_FLAGS) or flag in MASKED_WIDE
