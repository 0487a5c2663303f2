"""Where a shared object has its cpuid instructions, found by disassembly.

The two bytes 0F A2 also occur inside of other instructions. So each occurrence is a candidate only,
and the function that it lies in is disassembled from its beginning, which the object's table of
unwinding (.eh_frame_hdr) knows even where symbols are stripped.
"""

from __future__ import annotations

import bisect
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from struct import iter_unpack, unpack_from
from typing import Final

CPUID: Final = b"\x0f\xa2"
NOPS: Final = b"\x90" * 16
"""Longer than an instruction: whatever came before, the next one is decoded from its beginning."""

FAR: Final = 1 << 16
"""Bytes. A function that begins farther before a candidate, or assembly without an entry in the
table, is disassembled from there only: decoding finds the true boundaries within a few dozen."""

EH_FRAME, PROGRAM, EXECUTABLE = 0x6474E550, 1, 4
"""PT_GNU_EH_FRAME, SHT_PROGBITS, SHF_EXECINSTR of <elf.h>."""

HEADER_OF_TABLE: Final = (0x1B, 0x03, 0x3B)
"""The encodings all linkers write into .eh_frame_hdr: its entries are pairs of 32-bit integers."""


@dataclass(frozen=True)
class Part:
    """Of an ELF file: where it is in memory, relative to the object, and in the file."""

    address: int
    offset: int
    size: int


@dataclass(frozen=True)
class Sites:
    """What was found.

    Attributes:
        addresses: Of cpuid instructions, relative to where the object is loaded.
        others: Of the same two bytes inside of other instructions.
    """

    addresses: list[int]
    others: list[int]


def find_cpuids(path: Path) -> Sites:
    """All cpuid instructions of an ELF file for x86-64.

    Raises:
        RuntimeError: It is not such a file, or objdump is missing.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01" or unpack_from("<H", data, 18)[0] != 62:
        raise RuntimeError(f"{path}: not an ELF file for x86-64")
    starts = sorted(function_starts(data))
    pieces: dict[int, bytes] = {}  # By a function's address, its code up to the last candidate.
    candidates: list[int] = []
    for part in code_parts(data):
        to_address = part.address - part.offset
        for match in re.compile(CPUID).finditer(data, part.offset, part.offset + part.size):
            address = match.start() + to_address
            candidates.append(address)
            before = starts[bisect.bisect(starts, address) - 1] if starts else 0
            start = max(before if before <= address else 0, part.address, address - FAR)
            pieces[start] = data[start - to_address : match.end()]
    found = disassembled_cpuids(list(pieces.items())) if pieces else set()
    return Sites(
        [address for address in candidates if address in found],
        [address for address in candidates if address not in found],
    )


def code_parts(data: bytes) -> list[Part]:
    """The sections with code. (A segment with code may also hold symbols and constants.)"""
    (table,) = unpack_from("<Q", data, 40)
    size, count = unpack_from("<HH", data, 58)
    parts = []
    for index in range(count):
        _, kind, flags, *where = unpack_from("<IIQQQQ", data, table + index * size)
        if kind == PROGRAM and flags & EXECUTABLE:
            parts.append(Part(*where))
    return parts


def function_starts(data: bytes) -> list[int]:
    """Addresses of all functions that can be unwound; none without a table of these."""
    (table,) = unpack_from("<Q", data, 32)
    size, count = unpack_from("<HH", data, 54)
    for index in range(count):
        kind, _, offset, address = unpack_from("<IIQQ", data, table + index * size)
        if kind == EH_FRAME:
            version, *encodings, _, entries = unpack_from("<BBBBiI", data, offset)
            if version == 1 and tuple(encodings) == HEADER_OF_TABLE:
                pairs = iter_unpack("<ii", data[offset + 12 : offset + 12 + 8 * entries])
                return [address + start for start, _ in pairs]
    return []


def disassembled_cpuids(pieces: list[tuple[int, bytes]]) -> set[int]:
    """Addresses of cpuid in pieces of code, each given by its address and its bytes."""
    blob = bytearray()
    places: list[tuple[int, int]] = []  # (offset in the blob, address) of each piece.
    for address, code in pieces:
        places.append((len(blob), address))
        blob += code + NOPS
    with tempfile.NamedTemporaryFile() as file:
        file.write(blob)
        file.flush()
        command = ["objdump", "-D", "-b", "binary", "-m", "i386:x86-64", "-w", file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(f"binutils' objdump is needed: {error}") from None
    found = set()
    for match in re.finditer(r"^ *([0-9a-f]+):\t0f a2 +\tcpuid", done.stdout, re.MULTILINE):
        offset = int(match[1], 16)
        start, address = places[bisect.bisect(places, (offset, 1 << 64)) - 1]
        found.add(address + offset - start)
    return found
