"""/proc/cpuinfo as a CPU with AVX2 alone has it."""

from __future__ import annotations

from tests.benchmarks.masked_cpu.cpuinfo import masked_cpuinfo

CPUINFO = """processor\t: 0
model name\t: a CPU with avx512f
flags\t\t: fpu sse2 fma f16c avx2 bmi2 avx512f avx512vl avx_vnni avx512_vnni gfni amx_tile rdpid
bugs\t\t: sysret_ss_attrs

processor\t: 1
flags\t\t: avx2 avx512_bf16 vaes
"""


def test_flags_of_wider_vectors_go_and_all_else_stays() -> None:
    assert (
        masked_cpuinfo(CPUINFO)
        == """processor\t: 0
model name\t: a CPU with avx512f
flags\t\t: fpu sse2 fma f16c avx2 bmi2 rdpid
bugs\t\t: sysret_ss_attrs

processor\t: 1
flags\t\t: avx2
"""
    )
