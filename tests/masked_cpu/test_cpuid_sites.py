"""cpuid instructions are found, and the same bytes elsewhere are not taken for one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.benchmarks.masked_cpu.cpuid_sites import code_parts, disassembled_cpuids, find_cpuids
from tests.masked_cpu.compiled import compiled, needs_x86

SOURCE = """
extern "C" __attribute__((used)) const unsigned char constant[] = {0x90, 0x0f, 0xa2, 0x90};
extern "C" int function(int leaf) {
    int b, c = 0, d;
    asm volatile(".globl inside_of_mov\\n inside_of_mov: movl $0xa20f, %%ecx\\n"
                 ".globl first\\n first: cpuid\\n"
                 : "+a"(leaf), "=b"(b), "+c"(c), "=d"(d));
    return leaf ^ b ^ c ^ d;
}
extern "C" void other_function() {
    asm volatile(".globl second\\n second: cpuid" ::: "eax", "ebx", "ecx", "edx");
}
"""


@pytest.fixture(params=[[], ["-Wl,-z,noseparate-code", "-s"]], ids=["usual", "stripped"])
def library(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Linked as usual, and without symbols and with constants in the segment of the code."""
    flags = ["-shared", "-fPIC", "-Wl,-Bsymbolic", *request.param]
    return compiled(SOURCE, tmp_path / "library.so", *flags)


def address_of(symbol: str, library: Path) -> int:
    printed = subprocess.run(["nm", "-D", library], check=True, capture_output=True, text=True)
    addresses = {line.split()[-1]: line.split()[0] for line in printed.stdout.splitlines()}
    return int(addresses[symbol], 16)


@needs_x86
def test_each_cpuid_is_found_and_nothing_else_with_its_bytes(library: Path) -> None:
    found = find_cpuids(library)
    assert sorted(found.addresses) == sorted(address_of(s, library) for s in ("first", "second"))
    assert found.others == [address_of("inside_of_mov", library) + 1]


@needs_x86
def test_constants_are_not_code(library: Path) -> None:
    address = address_of("constant", library)
    parts = code_parts(library.read_bytes())
    assert parts
    assert not any(part.address <= address < part.address + part.size for part in parts)


@needs_x86
def test_pieces_of_code_are_disassembled_apart() -> None:
    begun = b"\x48\xb8"  # mov rax, and an immediate of eight bytes that is missing.
    pieces = [(0x1000, begun), (0x2000, b"\x0f\xa2"), (0x3000, begun + b"\x0f\xa2")]
    assert disassembled_cpuids(pieces) == {0x2000}


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("not a library, but as long as the first header of one would be, or longer")
    with pytest.raises(RuntimeError, match="not an ELF file"):
        find_cpuids(file)
