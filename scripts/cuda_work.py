"""Count the bytes and operations of the CUDA kernels in one decoder layer, from sizes and source.

Each byte is counted once, as if caches were perfect. Work is counted as issued by a kernel: with
the columns that pad a segment to an instruction, and the rows that fill a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from resq_onnx.projections.hadamard import outer_order
from resq_onnx.projections.splits import down_split
from resq_onnx.recipe import BitSplit, Recipe

HALF: Final = 2
FLOAT: Final = 4
STEP: Final = 32  # bytes of a row that one instruction multiplies, kStepBytes of segments.cuh
STREAMED_ROWS: Final = 16  # kStreamedRows of matmul_plan.cu
CHUNK: Final = 64  # kChunk of attention.hpp
CHUNKS_OF_SPLIT: Final = 4  # kChunksOfSplit of attention_few.cu
PART_CODE: Final = 3  # bytes of the scale and zero point of a part of a cache record
CODE: Final = 8  # bytes of a segment's scale and zero point
AT_ONCE: Final = 4  # rows or outputs that a thread sums: kRowsAtOnce, kOutputs of the .cu files
GATE_BLOCKS: Final = 128  # kBlocks of hadamard.cu
TOKENS_OF_BLOCK: Final = 8  # kMostTokens of attention_prepare.cu


def coefficient_bytes(head_dim: int) -> tuple[int, int]:
    """Bytes of the low and of the high coefficients of a key or a value; an eighth are high."""
    high = head_dim // 8
    return (head_dim - high) // 2, high


@dataclass(frozen=True)
class Model:
    """Sizes of a model; 1/8 of every width is kept in 8 bits, possibly more before down_proj."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    down_high: float | None = None
    """`down_high` of the recipe."""

    @property
    def record(self) -> int:
        """Bytes of a cache record: its coefficients, and two scales and zero points."""
        return sum(coefficient_bytes(self.head_dim)) + 2 * PART_CODE

    @cached_property
    def down(self) -> BitSplit:
        """The parts of down_proj's input."""
        return down_split(Recipe(down_high=self.down_high), self.intermediate)


@dataclass(frozen=True)
class Call:
    """Rows that run together: those of one prompt, or one row for each of several sequences."""

    rows: int
    context: int
    """Tokens of a sequence, including the new ones."""
    sequences: int

    @property
    def tokens(self) -> int:
        """New tokens of a sequence."""
        return self.rows // self.sequences


def prompt(rows: int) -> Call:
    """The call that reads a prompt."""
    return Call(rows, rows, 1)


def step(rows: int, context: int) -> Call:
    """The call that adds a token to each of some sequences."""
    return Call(rows, context, rows)


@dataclass(frozen=True)
class Work:
    """Work of a kernel, or of several kernels for one step.

    Attributes:
        moved: Bytes read from and written to the GPU's memory.
        operations: Operations by unit (`int4`, `int8`, `half` of the tensor cores; `float` outside
            of them); a multiplication and an addition count as two.
        loads: Words of 4 bytes that threads read from shared memory or the L1 cache.
        blocks: Blocks of the kernel's grid; an SM without a block is idle.
    """

    moved: float
    operations: dict[str, float] = field(default_factory=dict)
    loads: float = 0.0
    blocks: int = 1 << 30


@dataclass(frozen=True)
class Item:
    """A row of the tables: our kernels, the same in float16, and with weights for MatMulNBits."""

    name: str
    ours: Work
    half: Work
    nbits: Work


@dataclass(frozen=True)
class Matrix:
    """A linear layer: `groups` segments of columns of each part; whether a residual is added."""

    name: str
    outputs: int
    columns: int
    groups: int = 1
    high: float = 0.125
    adds: bool = False

    @property
    def widths(self) -> tuple[int, int]:
        """Columns of a low and of a high segment."""
        width = self.columns // self.groups
        high = round(width * self.high)
        return width - high, high

    @property
    def weight_bytes(self) -> float:
        """Bytes of the integers and of the scales, a float32 for each output and part."""
        low, high = self.widths
        parts = sum(width > 0 for width in self.widths)
        return self.outputs * (self.groups * (low / 2 + high) + FLOAT * parts)

    def padded(self, packs: bool) -> tuple[int, int]:
        """Columns of all low and all high segments, each padded to whole instructions."""
        low, high = self.widths
        unit = 2 * STEP if packs else STEP
        return self.groups * _round_up(low, unit), self.groups * _round_up(high, STEP)

    def row_bytes(self, packs: bool) -> int:
        """Bytes of a quantised row with its scales and zero points."""
        low, high = self.padded(packs)
        segments = self.groups * sum(width > 0 for width in self.widths)
        return (low // 2 if packs else low) + high + CODE * segments


def matrices(model: Model) -> tuple[Matrix, ...]:
    """The linear layers of a decoder layer."""
    d, down_share = model.head_dim, model.down.high / model.intermediate
    return (
        Matrix("q/k/v", (model.heads + 2 * model.kv_heads) * d, model.hidden),
        Matrix("o", model.hidden, model.heads * d, groups=model.heads, adds=True),
        Matrix("gate/up", 2 * model.intermediate, model.hidden),
        Matrix("down", model.hidden, model.intermediate, high=down_share, adds=True),
    )


def lm_head(model: Model) -> Matrix:
    """The last matrix, all in 8 bits."""
    return Matrix("lm_head", model.vocabulary, model.hidden, high=1.0)


def multiply(matrix: Matrix, rows: int, has_int4: bool) -> Item:
    """The matrix product; its activations are already quantised."""
    streams = rows <= STREAMED_ROWS
    packs = has_int4 and not streams and matrix.widths[0] > 0
    low, high = matrix.padded(packs)
    out = rows * matrix.outputs * HALF * (2 if matrix.adds else 1)
    if streams:
        height, blocks = 8 if rows <= 8 else 16, _ceil(matrix.outputs, 16)
    else:
        height = 64 if rows <= 64 else 128
        blocks = _ceil(rows, height) * _ceil(matrix.outputs, 128)
    issued = 2.0 * _round_up(rows, height) * matrix.outputs
    operations = {"int8": issued * high}
    unit = "int4" if packs else "int8"
    operations[unit] = operations.get(unit, 0.0) + issued * low
    ours = Work(
        matrix.weight_bytes + rows * matrix.row_bytes(packs) + out, operations, blocks=blocks
    )
    weights = matrix.outputs * matrix.columns
    around = rows * matrix.columns * HALF + out
    half = {"half": 2.0 * rows * weights}
    return Item(
        f"matmul {matrix.name}",
        ours,
        Work(weights * HALF + around, half),
        Work(weights * 4.5 / 8 + around, half),
    )


def quantise(model: Model, rows: int, has_int4: bool) -> Item:
    """Quantisation for the four matrices; in float16, the two norms that our kernels include."""
    packs = has_int4 and rows > STREAMED_ROWS
    moved = sum(m.columns * HALF + m.row_bytes(packs) for m in matrices(model))
    norms = Work(rows * 2 * model.hidden * 2 * HALF)
    return Item("quantise", Work(rows * moved, blocks=rows), norms, norms)


def prepare(model: Model, call: Call) -> Item:
    """RoPE, projection of queries and keys, and new records; in float16, RoPE and the cache."""
    d, rows, of_kv = model.head_dim, call.rows, model.heads // model.kv_heads
    read = (model.heads + 2 * model.kv_heads) * d
    moved = rows * (read * HALF + model.heads * d * FLOAT + 2 * model.kv_heads * model.record)
    of_block = min(TOKENS_OF_BLOCK, 48 * 1024 // ((of_kv + 3) * d * FLOAT), call.tokens)
    whole, rest = divmod(call.tokens, of_block)
    # A kv head's queries and key, in fours.
    fours = whole * _ceil(of_block * (of_kv + 1), AT_ONCE) + _ceil(rest * (of_kv + 1), AT_ONCE)
    heads = call.sequences * model.kv_heads
    products = float(heads * fours * AT_ONCE * d * d)
    ours = Work(
        moved + model.kv_heads * d * d * FLOAT,
        {"float": 2 * products},
        products * 8 / 16,  # four words of rows and four of the projection make 16 products
        heads * _ceil(call.tokens, of_block),
    )
    half = Work(rows * read * 2 * HALF)
    return Item("prepare", ours, half, half)


def attend(model: Model, call: Call) -> Item:
    """Attention of new queries over the cache."""
    return (_attend_many if call.tokens >= STREAMED_ROWS else _attend_few)(model, call)


def _attend_few(model: Model, call: Call) -> Item:
    d, rows = model.head_dim, call.rows
    slots = call.sequences * call.context
    splits = _ceil(call.context, CHUNK * CHUNKS_OF_SPLIT)
    per_head = call.tokens * model.heads // model.kv_heads
    of_block = AT_ONCE if per_head <= AT_ONCE else 2 * AT_ONCE
    pieces = _ceil(per_head, of_block)
    fours = of_block // AT_ONCE * pieces * model.kv_heads
    pairs = float(fours * slots * d)  # coefficients of keys, as often as they are decoded
    key_bytes = sum(coefficient_bytes(d)) / d  # loaded for a coefficient
    partials = rows * model.heads * splits * (d + 2) * FLOAT * 2 if splits > 1 else 0
    around = rows * model.heads * d * HALF
    ours = Work(
        2 * slots * model.kv_heads * model.record
        + slots * 8
        + rows * model.heads * d * FLOAT
        + partials
        + around,
        # Keys and values: one product per query, of four, and one for decoding.
        {"float": 2 * 2.0 * (4 + 1) * pairs},
        # Keys: the words of four queries, and bytes. Values, for two columns: four weights, scale
        # and shift, and two bytes.
        (4 + key_bytes + (4 + 2 + 2) / 2) * pairs,
        call.sequences * model.kv_heads * pieces * splits,
    )
    moved = 2 * slots * model.kv_heads * d * HALF + 2 * around
    half = Work(moved, {"half": 4.0 * model.heads * d * slots})
    return Item("attend_split, combine", ours, half, half)


def _attend_many(model: Model, call: Call) -> Item:
    d, rows = model.head_dim, call.rows
    old = call.context - call.tokens
    seen = rows * (old + (call.tokens + 1) / 2)  # pairs of a query's token and a slot
    operations = {"half": 4.0 * model.heads * d * seen}
    slots = call.sequences * call.context
    out = rows * model.heads * d * HALF
    ours = Work(
        2 * slots * model.kv_heads * model.record + rows * model.heads * d * FLOAT + out,
        operations,
        blocks=call.sequences
        * model.kv_heads
        * _ceil(call.tokens * model.heads // model.kv_heads, 128),
    )
    half = Work(2 * slots * model.kv_heads * d * HALF + 2 * out, operations)
    return Item("flash", ours, half, half)


def gate(model: Model, rows: int) -> Item:
    """act(gate) · up, and the Hadamard rotation; in float16, only the gate."""
    parts = [_Rotation(width) for width in (model.down.low, model.down.high) if width]
    most = max(part.fours for part in parts)
    blocks = rows * max(1, min(GATE_BLOCKS // rows, most))  # that share a token, where it has few
    moved = rows * 3 * model.intermediate * HALF
    operations, loads = (
        sum(blocks * part.inner[i] + rows * part.outer[i] for part in parts) for i in (0, 1)
    )
    ours = Work(moved, {"float": operations}, loads, blocks)
    return Item("gate_and_rotate", ours, Work(moved), Work(moved))


@dataclass(frozen=True)
class _Rotation:
    """The rotation of one part of a token's columns; the inner factor is a fast transform."""

    width: int

    @property
    def order(self) -> int:
        """Order of the outer factor."""
        return outer_order(self.width)

    @property
    def columns(self) -> int:
        """Order of the inner factor."""
        return self.width // self.order

    @property
    def fours(self) -> int:
        """Groups of four outputs of the outer factor, which blocks can share."""
        return _ceil(self.order, AT_ONCE)

    @property
    def inner(self) -> tuple[float, float]:
        """Operations and loads of gate and inner factor, for each block that shares a token.

        Five steps of the transform use registers only, then four steps follow per load of columns.
        """
        steps = math.log2(self.columns)
        return self.width * (steps + 2), self.width * (2 + math.ceil((steps - 5) / 4))

    @property
    def outer(self) -> tuple[float, float]:
        """Operations and loads of the outer factor, for all blocks that share a token."""
        issued = self.fours * AT_ONCE * self.width
        if self.order % 4 == 0 and self.columns % 4 == 0:
            return 2.0 * issued, issued * 8 / 16  # four columns and four factors
        return 2.0 * issued, float(self.width * (self.fours + self.order))


def layer(model: Model, call: Call, has_int4: bool) -> Iterator[Item]:
    """All kernels that one decoder layer launches."""
    yield quantise(model, call.rows, has_int4)
    for matrix in matrices(model):
        yield multiply(matrix, call.rows, has_int4)
    yield prepare(model, call)
    yield attend(model, call)
    yield gate(model, call.rows)


def _ceil(value: int, unit: int) -> int:
    return -(-value // unit)


def _round_up(value: int, unit: int) -> int:
    return _ceil(value, unit) * unit
