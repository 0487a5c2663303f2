"""Occupancy of the CUDA kernels: blocks that a multiprocessor holds at once.

The rules are those of CUDA's occupancy calculator (`cuda_occupancy.h` of the toolkit). The limits
are those of the table "Technical Specifications per Compute Capability" in NVIDIA's CUDA
Programming Guide:

    registers of a warp = 32 · registers of a thread, rounded up to 256
    warps by registers  = 4 · floor(16384 / registers of a warp)      a quarter of the SM at a time
    shared of a block   = static + dynamic + 1024, rounded up to 128
    blocks              = the minimum of: the limit of blocks, and warps by registers, the limit of
                          warps, and shared memory, each divided by the use of a block
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from resq_onnx.functions.cache_record import RecordLayout

WARP: Final = 32
REGISTERS: Final = 65536
QUARTERS: Final = 4
RESERVED_SHARED: Final = 1024
KIB: Final = 1024


@dataclass(frozen=True)
class Limits:
    """Limits of a multiprocessor of one compute capability."""

    warps: int
    blocks: int
    shared: int
    """Bytes of shared memory; a block may use all but 1024, which are reserved."""


LIMITS: Final = {
    "sm_80": Limits(64, 32, 164 * KIB),
    "sm_86": Limits(48, 16, 100 * KIB),
    "sm_89": Limits(48, 24, 100 * KIB),
    "sm_90": Limits(64, 32, 228 * KIB),
    "sm_100": Limits(64, 32, 228 * KIB),
    "sm_120": Limits(48, 24, 100 * KIB),
}


@dataclass(frozen=True)
class Launch:
    """Launch of a kernel: threads per block, and bytes of dynamic shared memory."""

    threads: int
    dynamic_shared: int


def blocks_of(limits: Limits, registers: int, threads: int, shared: int) -> int:
    """Blocks that a multiprocessor holds; 0 if not even one fits.

    Args:
        limits: Limits of the multiprocessor.
        registers: Registers per thread.
        threads: Threads per block.
        shared: Bytes of shared memory per block, static and dynamic.
    """
    warps = -(-threads // WARP)
    of_warp = _round_up(registers * WARP, 256)
    by_registers = QUARTERS * (REGISTERS // QUARTERS // of_warp)
    by_shared = limits.shared // _round_up(shared + RESERVED_SHARED, 128)
    return min(limits.blocks, by_registers // warps, limits.warps // warps, by_shared)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


# --- Launches of the kernels, with the sizes of Llama-3-8B where they matter ----------------------

HEAD_DIM: Final = 128
HEADS_PER_KV: Final = 4
CHUNK: Final = 64  # slots, kChunk of attention.hpp
AT_ONCE: Final = 4  # queries, kRowsAtOnce of attention_few.cu
WIDEST_PART: Final = 12288  # of 14336 columns, which GatedHadamard rotates in two parts


def launch_of(kernel: str) -> Launch:
    """The launch of a kernel by its short name, as computed in the .cu files.

    Raises:
        KeyError: The kernel is unknown.
    """
    name, _, rest = kernel.partition("<")
    arguments = [argument.strip() for argument in rest.removesuffix(">").split(",")]
    if name == "multiply_many_rows":
        rows = 2 * int(arguments[0]) * 16
        return Launch(256, 4 * (rows + 128) * 64)
    if name == "multiply_few_rows":
        outputs, rows = 16, 8 * int(arguments[1])
        return Launch(256, 8 * 4 * (outputs * rows + outputs))
    if name == "flash":
        dim = int(arguments[1])
        return Launch(256, 2 * CHUNK * (2 * dim + 16) + 4 * CHUNK + _chunk_bytes(dim))
    if name == "attend_split":
        rows = int(arguments[0])
        return Launch(rows // AT_ONCE * CHUNK, _split_bytes(rows))
    return FIXED[name]


def _chunk_bytes(head_dim: int) -> int:
    """Shared memory for the records of a chunk: chunk_bytes of records.cuh."""
    return (CHUNK * RecordLayout(head_dim, head_dim // 8).size + 15 + 15) // 16 * 16


def _split_bytes(rows: int) -> int:
    """Work::bytes of attention_few.cu."""
    floats = 2 * rows * HEAD_DIM + rows * CHUNK + 4 * rows + CHUNK + 4 * CHUNK
    return 4 * floats + _chunk_bytes(HEAD_DIM)


FIXED: Final = {
    "combine": Launch(128, 0),
    "prepare": Launch(128, 8 * (HEADS_PER_KV + 3) * HEAD_DIM * 4),
    "gate_and_rotate": Launch(256, 4 * WIDEST_PART),
    "gate_alone": Launch(256, 0),
    "quantise_row": Launch(256, 3 * 8 * 4),
    "quantise_segments": Launch(256, 0),
}
"""Launches by name, for kernels whose launch does not depend on template arguments."""
