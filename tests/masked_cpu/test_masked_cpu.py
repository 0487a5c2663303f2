"""A program on the masked CPU: what it is told, what it computes with, and how it fails."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.benchmarks.masked_cpu import MaskedCpu
from tests.masked_cpu.compiled import compiled, needs_x86

SOURCE = """
#include <cpuid.h>
#include <cstdio>
struct Leaves { unsigned one[4], seven[4], seven_one[4]; };
static Leaves leaves() {
    Leaves l = {};
    __cpuid(1, l.one[0], l.one[1], l.one[2], l.one[3]);
    __cpuid_count(7, 0, l.seven[0], l.seven[1], l.seven[2], l.seven[3]);
    __cpuid_count(7, 1, l.seven_one[0], l.seven_one[1], l.seven_one[2], l.seven_one[3]);
    return l;
}
static Leaves before_main = leaves();
int main() {
    const Leaves& l = before_main;
    std::printf("[%u, %u, %u, %u, %d]", l.one[2], l.seven[1], l.seven[2], l.seven_one[0],
                __builtin_cpu_supports("avx512f") ? 1 : 0);
}
"""
AVX512_EBX = sum(1 << bit for bit in (16, 17, 21, 26, 27, 28, 30, 31))  # Of leaf 7.
VNNI_ECX = 1 << 11
AVX2_EBX = 1 << 5


@pytest.fixture(scope="module")
def cpu(tmp_path_factory: pytest.TempPathFactory) -> MaskedCpu:
    return MaskedCpu(tmp_path_factory.mktemp("masked_cpu"))


def told(cpu: MaskedCpu, program: Path, masked: bool) -> list[int]:
    done, counts = cpu.run(
        [str(program)], os.environ, masked=masked, check=True, capture_output=True, text=True
    )
    assert bool(counts.answered) == masked
    numbers: list[int] = json.loads(done.stdout)
    return numbers


@needs_x86
@pytest.mark.slow
def test_constructors_and_main_see_neither_avx512_nor_vnni(cpu: MaskedCpu, tmp_path: Path) -> None:
    program = compiled(SOURCE, tmp_path / "program")
    one, ebx, ecx, sub_leaf_one, supported = told(cpu, program, masked=True)
    real_one, real_ebx, *_ = told(cpu, program, masked=False)
    assert (ebx & AVX512_EBX, ecx & VNNI_ECX, sub_leaf_one, supported) == (0, 0, 0, 0)
    assert ebx & AVX2_EBX == real_ebx & AVX2_EBX
    assert one == real_one  # FMA, AVX, F16C.


@needs_x86
@pytest.mark.slow
def test_our_kernels_and_proc_cpuinfo_are_those_of_avx2(cpu: MaskedCpu) -> None:
    program = "from resq_onnx.evaluation.machine import describe_machine as d; m = d(); "
    program += "print(m.kernels, *m.instruction_sets)"
    done, _ = cpu.run(
        [sys.executable, "-c", program], os.environ, check=True, capture_output=True, text=True
    )
    kernels, *instruction_sets = done.stdout.split()
    assert kernels in ("avx2", "scalar", "none")
    assert not [name for name in instruction_sets if "512" in name or "VNNI" in name]


@needs_x86
@pytest.mark.slow
def test_a_program_that_cannot_be_masked_is_an_error(cpu: MaskedCpu, tmp_path: Path) -> None:
    program = compiled("int main() {}", tmp_path / "program", "-static")
    with pytest.raises(RuntimeError, match="nothing that can be masked"):
        cpu.run([str(program)], os.environ)


@needs_x86
@pytest.mark.slow
def test_another_illegal_instruction_still_ends_the_process(cpu: MaskedCpu, tmp_path: Path) -> None:
    program = compiled("int main() { __builtin_trap(); }", tmp_path / "program")
    done, _ = cpu.run([str(program)], os.environ)
    assert done.returncode < 0
