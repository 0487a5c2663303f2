"""Inputs for attention nodes, and what the oracle makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.functions import AttentionForm, RotaryForm
from tests.functions import oracle
from tests.functions.engines import feeds_of, model_of, run, session

Array = NDArray[Any]

HEADS, SHARED, DIM = 4, 2, 16
POSITIONS: Final = 40
EPSILON: Final = 1e-6
SOFTCAP: Final = 1.5
"""Scores of random inputs are beyond it often enough."""


@dataclass(frozen=True)
class Shape:
    """Sizes of one call: old tokens = total - new; capacity is P of the past."""

    batch: int
    new: int
    total: int
    capacity: int


SHAPES: Final = {
    "first token": Shape(1, 1, 1, 0),
    "prefill": Shape(2, 5, 5, 0),
    "decode": Shape(1, 1, 8, 7),
    "several tokens on a past": Shape(3, 2, 7, 5),
    "buffer, first token": Shape(1, 1, 1, 6),
    "buffer, prefill": Shape(2, 3, 3, 8),
    "buffer, decode": Shape(2, 1, 6, 9),
    "buffer, last slot": Shape(1, 2, 9, 9),
}


def parameters(
    form: RotaryForm, *, exact: bool, seed: int = 0, positions: int = POSITIONS
) -> dict[str, Array]:
    """Tables, projection and gains of a node.

    Args:
        form: The node's form.
        exact: All numbers are small multiples of 1/4, so that sums come out the same in any
            order and integers can be compared one by one.
        seed: Of the random numbers.
        positions: Rows of the tables.
    """
    rng = np.random.default_rng(seed)
    tables = (positions, form.rotary_dim // 2)
    arrays: dict[str, Array] = {}
    if exact:
        arrays["cos_cache"], arrays["sin_cache"] = (rng.integers(-4, 5, (2, *tables)) / 4).astype(
            np.float32
        )
    else:
        angle = rng.uniform(0, 2 * np.pi, tables)
        arrays["cos_cache"] = np.cos(angle).astype(np.float32)
        arrays["sin_cache"] = np.sin(angle).astype(np.float32)
    if form.rotates_keys:
        shape = (form.kv_num_heads, form.head_dim, form.head_dim)
        matrices = (
            rng.choice([-0.25, 0.25], shape)
            if exact
            else np.linalg.qr(rng.standard_normal(shape))[0]
        )
        arrays["key_projection"] = matrices.astype(np.float32)
    if form.qk_norm:
        for name in ("q_norm", "k_norm"):
            arrays[name] = rng.uniform(0.5, 1.5, form.head_dim).astype(np.float32)
    return arrays


def calls(form: RotaryForm, shape: Shape, *, exact: bool, seed: int = 1) -> dict[str, Array]:
    """What changes with every call; every slot up to `total` may be seen."""
    rng = np.random.default_rng(seed)
    width = (form.num_heads + 2 * form.kv_num_heads) * form.head_dim
    qkv = rng.standard_normal((shape.batch, shape.new, width))
    cache = (shape.batch, form.kv_num_heads, shape.capacity, form.head_dim)
    pasts = rng.standard_normal((2, *cache)).astype(np.float32)
    arrays = {
        "QKV": (np.round(qkv * 16) / 16 if exact else qkv).astype(np.float32),
        "past_key": stored(form, pasts[0]),
        "past_value": stored(form, pasts[1]),
        "attention_mask": np.ones((shape.batch, shape.total), np.int64),
    }
    if form.position_ids:
        arrays["position_ids"] = counted(shape)
    return arrays


def counted(shape: Shape) -> Array:
    """Positions (B, S) of tokens that lie in slots without gaps."""
    return np.tile(np.arange(shape.total - shape.new, shape.total), (shape.batch, 1))


def stored(form: RotaryForm, x: Array) -> Array:
    """What the cache holds of (B, G, n, d)."""
    return oracle.encode(x, form.layout) if isinstance(form, AttentionForm) else x


def read(form: RotaryForm, cache: Array) -> Array:
    """What a cache holds, as (B, G, n, d) float64."""
    if isinstance(form, AttentionForm):
        return oracle.decode(cache, form.layout)
    return cache.astype(np.float64)


def node(form: RotaryForm, arrays: Mapping[str, Array], engine: str = "onnxruntime") -> list[Array]:
    """Y, present_key and present_value of the node."""
    return run(engine, form, arrays, chosen(form))


def chosen(form: RotaryForm) -> dict[str, float]:
    """The attributes the form leaves to its nodes."""
    norm = {"norm_epsilon": EPSILON} if form.qk_norm else {}
    return norm | ({"softcap": SOFTCAP} if form.caps_scores else {})


def attention(form: RotaryForm, arrays: Mapping[str, Array]) -> oracle.Attention:
    """The oracle for a form with these parameters."""
    return oracle.Attention(
        form.num_heads,
        form.kv_num_heads,
        form.head_dim,
        form.rotary_dim,
        arrays["cos_cache"],
        arrays["sin_cache"],
        arrays.get("key_projection"),
        arrays.get("q_norm"),
        arrays.get("k_norm"),
        EPSILON,
        form.window,
        SOFTCAP if form.caps_scores else 0.0,
    )


def presents(
    form: RotaryForm, arrays: Mapping[str, Array], positions: Array
) -> tuple[Array, Array, Array]:
    """Queries, and the caches after the call, by the oracle."""
    query, key, value = attention(form, arrays).heads(arrays["QKV"], positions)
    total = arrays["attention_mask"].shape[1]
    return (
        query,
        oracle.put(arrays["past_key"], stored(form, key), total),
        oracle.put(arrays["past_value"], stored(form, value), total),
    )


def attended(
    form: RotaryForm, arrays: Mapping[str, Array], query: Array, caches: tuple[Array, Array]
) -> Array:
    """Y, by the oracle, of queries that read these caches."""
    mask = arrays["attention_mask"]
    keys, values = (read(form, cache[:, :, : mask.shape[1]]) for cache in caches)
    return attention(form, arrays).attend(query, keys, values, mask)


def run_in_steps(
    form: RotaryForm, arrays: Mapping[str, Array], steps: list[int]
) -> tuple[Array, Array, Array]:
    """Feed QKV (B, S, ·) of a first call in pieces; Y of all pieces and the last caches."""
    compiled = session(ir.to_proto(model_of(form, arrays, chosen(form))))
    caches, outputs, start = (arrays["past_key"], arrays["past_value"]), [], 0
    for size in steps:
        stop = start + size
        piece = {
            **arrays,
            "QKV": arrays["QKV"][:, start:stop],
            "past_key": caches[0],
            "past_value": caches[1],
            "attention_mask": arrays["attention_mask"][:, :stop],
        }
        if form.position_ids:
            piece["position_ids"] = arrays["position_ids"][:, start:stop]
        y, *after = compiled.run(None, feeds_of(piece))
        caches, start = (after[0], after[1]), stop
        outputs.append(y)
    return np.concatenate(outputs, axis=1), *caches
