"""Single operators with random weights, and how much each has to compute and to read.

Sizes are those of decoder layers: of their matrices, their attention, their GatedHadamard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from resq_onnx.functions import AttentionForm, Form, HadamardForm, MatMulForm, RecordLayout
from resq_onnx.projections.hadamard import kronecker_factors
from resq_onnx.recipe import BitSplit

Array = NDArray[Any]

EPSILON: Final = 1e-5
SCALE_BYTES: Final = 0x3DCD
"""About 0.1 as bfloat16: the scale of every cached key and value."""


@dataclass(frozen=True)
class Case:
    """One node: what it is, its inputs, and its work in one call.

    Attributes:
        name: In tables.
        form: Of the node.
        arrays: By name, every input the form has.
        rows: Tokens of a call.
        low_macs: Multiply-adds of 4-bit integers.
        high_macs: Of 8-bit integers.
        float_macs: Of float32 numbers: attention, and rotations (an addition counts as one).
        stored_bytes: Weights or cache that a call reads.
        attributes: What the form leaves to the node.
    """

    name: str
    form: Form
    arrays: dict[str, Array]
    rows: int
    low_macs: int = 0
    high_macs: int = 0
    float_macs: int = 0
    stored_bytes: int = 0
    attributes: dict[str, float] = field(default_factory=dict)

    @property
    def macs(self) -> int:
        """All multiply-adds."""
        return self.low_macs + self.high_macs + self.float_macs


@dataclass(frozen=True)
class LayerSizes:
    """A decoder layer: D, H, G, d and I."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int


LAYERS: Final = {
    "SmolLM2-135M": LayerSizes(576, 9, 3, 64, 1536),
    "Llama-3.2-1B": LayerSizes(2048, 32, 8, 64, 8192),
    "Llama-3-8B": LayerSizes(4096, 32, 8, 128, 14336),
}


def split_of(width: int) -> BitSplit:
    """7/8 in 4 bits, 1/8 in 8."""
    return BitSplit(width - width // 8, width // 8)


def matmul_case(name: str, form: MatMulForm, rows: int, outputs: int) -> Case:
    """A MixedPrecisionMatMul: (rows, K) to (rows, outputs)."""
    rng = np.random.default_rng(0)
    split = form.split
    arrays: dict[str, Array] = {
        "X": rng.standard_normal((rows, split.width), np.float32),
        "W_low": rng.integers(-8, 8, (outputs, split.low), np.int8).astype(ml_dtypes.int4),
        "S_low": rng.uniform(0.001, 0.01, outputs).astype(np.float32),
        "W_high": rng.integers(-128, 128, (outputs, split.high), np.int8),
        "S_high": rng.uniform(0.0001, 0.001, outputs).astype(np.float32),
    }
    if form.residual:
        arrays["residual"] = rng.standard_normal((rows, outputs), np.float32)
    return Case(
        name,
        form,
        arrays,
        rows,
        low_macs=rows * outputs * split.low,
        high_macs=rows * outputs * split.high,
        stored_bytes=outputs * (split.low // 2 + split.high + 8),
        attributes={"norm_epsilon": EPSILON} if form.norm else {},
    )


def layer_matmuls(layer: LayerSizes, rows: int) -> Iterator[Case]:
    """The four matrices of a layer."""
    heads = layer.heads * layer.head_dim
    qkv = heads + 2 * layer.kv_heads * layer.head_dim
    normed = MatMulForm(split_of(layer.hidden), norm=True)
    grouped = MatMulForm(split_of(heads), groups=layer.heads, residual=True)
    down = MatMulForm(split_of(layer.intermediate), residual=True)
    yield matmul_case("qkv", normed, rows, qkv)
    yield matmul_case("o", grouped, rows, layer.hidden)
    yield matmul_case("gate_up", normed, rows, 2 * layer.intermediate)
    yield matmul_case("down", down, rows, layer.hidden)


def attention_case(name: str, layer: LayerSizes, new: int, total: int) -> Case:
    """A MixedPrecisionAttention: `new` tokens, which are the last of `total`, in a buffer."""
    rng = np.random.default_rng(0)
    heads, shared, size = layer.heads, layer.kv_heads, layer.head_dim
    layout = RecordLayout(size, size // 8)
    form = AttentionForm(
        num_heads=heads, kv_num_heads=shared, head_dim=size, rotary_dim=size, layout=layout
    )
    angles = np.arange(total)[:, None] * 10000.0 ** (-np.arange(size // 2) / (size // 2))
    bases = np.linalg.qr(rng.standard_normal((shared, size, size)))[0]
    qkv = rng.standard_normal((1, new, (heads + 2 * shared) * size), np.float32)
    arrays: dict[str, Array] = {
        "QKV": qkv,
        "past_key": _cache(layout, shared, total, rng),
        "past_value": _cache(layout, shared, total, rng),
        "attention_mask": np.ones((1, total), np.int64),
        "position_ids": np.arange(total - new, total)[None],
        "cos_cache": np.cos(angles).astype(np.float32),
        "sin_cache": np.sin(angles).astype(np.float32),
        "key_projection": bases.astype(np.float32),
    }
    visible = sum(range(total - new + 1, total + 1))  # slots, summed over the queries
    projected = new * (heads + shared) * size * size
    return Case(
        name,
        form,
        arrays,
        new,
        float_macs=2 * heads * visible * size + projected,
        stored_bytes=2 * shared * total * layout.size,
    )


def _cache(layout: RecordLayout, heads: int, tokens: int, rng: np.random.Generator) -> Array:
    """Records (1, heads, tokens, R) of random values and ordinary scales."""
    records = rng.integers(0, 256, (1, heads, tokens, layout.size), np.uint8)
    for part in layout.parts():
        at = layout.offset(f"{part.name}_scale")
        records[..., at : at + 2] = SCALE_BYTES & 255, SCALE_BYTES >> 8
        records[..., layout.offset(f"{part.name}_zero")] = 2 ** (part.bits - 1)
    return records


def hadamard_case(name: str, layer: LayerSizes, rows: int) -> Case:
    """A GatedHadamard: (rows, 2I) to (rows, I)."""
    rng = np.random.default_rng(0)
    split = split_of(layer.intermediate)
    gate_up = rng.standard_normal((rows, 2 * split.width), np.float32)
    arrays: dict[str, Array] = {"gate_up": gate_up}
    macs = 0
    for part, width in (("low", split.low), ("high", split.high)):
        factors = kronecker_factors(width, rng)
        arrays[f"{part}_outer"] = factors.outer.astype(np.float32)
        arrays[f"{part}_inner"] = factors.inner.astype(np.float32)
        # The inner matrix as a fast transform, the outer one as it is.
        outer, inner = len(factors.outer), len(factors.inner)
        macs += width * (outer + inner.bit_length() - 1)
    return Case(name, HadamardForm(split), arrays, rows, float_macs=rows * macs)
