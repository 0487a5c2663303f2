"""Inputs for MixedPrecisionAttention nodes, and what the oracle makes of them."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.functions import AttentionForm, RecordLayout
from tests.custom_ops.kernels import EPSILON, Node
from tests.functions import attention_cases as cases
from tests.functions import ragged_cases
from tests.functions.attention_cases import Shape, counted, read, stored
from tests.functions.oracle import Attention, put
from tests.functions.ragged_cases import PAIRS as PAIRS
from tests.functions.ragged_cases import Ragged

Array = NDArray[Any]

POSITIONS: Final = 320
"""Rows of the tables, more than the longest context tried."""

TOLERANCE: Final = 2e-4
"""Of the largest value that is attended to: queries and weights in 16 bits against float64. Scores
reach about 50 here, of which a query's rounding moves about 1e-4. 6e-5 was seen; a wrong zero
point, or a word in another's place, changes 1e-2 or more."""

FLIPPED: Final = 500e-6
"""Share of the cache's bytes that may differ where RoPE, norm and projection are summed in another
order: a sum that is off by 1e-7 of a part's range moves one in 40,000 of its 8-bit integers."""


def form_of(
    heads: int = 4,
    shared: int = 2,
    dim: int = 16,
    high: int | None = None,
    low_bits: int = 4,
    **options: Any,
) -> AttentionForm:
    """A form; RoPE turns whole heads and an eighth of a head has 8 bits, unless said otherwise."""
    layout = RecordLayout(dim, dim // 8 if high is None else high, low_bits)
    return AttentionForm(
        num_heads=heads,
        kv_num_heads=shared,
        head_dim=dim,
        layout=layout,
        **{"rotary_dim": dim, **options},
    )


FORMS: Final = {
    "plain": form_of(),
    "not projected": form_of(rotates_keys=False),
    "partly rotary": form_of(rotary_dim=6),
    "partly rotary, wide": form_of(dim=80, high=10, rotary_dim=32),
    "window": form_of(window=3),
    "window of one": form_of(window=1),
    "capped scores": form_of(caps_scores=True),
    "capped scores, window, head of 256": form_of(
        heads=2, shared=1, dim=256, window=5, caps_scores=True
    ),
    "positions not given": form_of(position_ids=False),
    "every head its own keys": form_of(heads=3, shared=3),
    "one kv head": form_of(heads=8, shared=1),
    "three heads for each kv head": form_of(heads=9, shared=3, dim=64),
    "head of 80": form_of(dim=80, high=10),
    "head of 128": form_of(heads=2, shared=1, dim=128),
    "eight bits": form_of(low_bits=8),
    "eight bits, odd parts": form_of(low_bits=8, high=3),
    "without high part": form_of(high=0),
    "high part alone": form_of(high=16),
    "eight bits without high part": form_of(high=0, low_bits=8),
    "most of it high": form_of(high=14),
}
"""All of them give the same bytes in any order of float sums, if their inputs are exact."""

NORMED: Final = {
    "q/k norm": form_of(qk_norm=True),
    "q/k norm, wide": form_of(heads=2, shared=1, dim=128, qk_norm=True),
    "q/k norm, nothing else": form_of(qk_norm=True, rotates_keys=False, position_ids=False),
}


def node_of(form: AttentionForm, shape: Shape, *, exact: bool = True, seed: int = 0) -> Node:
    """A node with random inputs.

    Args:
        form: Its form.
        shape: Sizes of the call.
        exact: All numbers are small multiples of a power of two, so that RoPE and projection
            come out the same in any order of sums and the cache can be compared byte by byte.
        seed: Of the random numbers.
    """
    arrays = _parameters(form, exact, seed)
    return Node.of(form, arrays | cases.calls(form, shape, exact=exact, seed=seed + 1))


def ragged_node_of(
    form: AttentionForm, shape: Ragged, *, exact: bool = True, seed: int = 0
) -> Node:
    """As `node_of`, for texts of unequal lengths."""
    arrays = _parameters(form, exact, seed)
    return Node.of(form, arrays | ragged_cases.calls(form, shape, exact=exact, seed=seed + 1))


def _parameters(form: AttentionForm, exact: bool, seed: int) -> dict[str, Array]:
    arrays = cases.parameters(form, exact=exact, seed=seed, positions=POSITIONS)
    if exact and form.rotates_keys:
        # About the length that a rotation keeps: ±1/4 suits heads of 16.
        arrays["key_projection"] *= np.float32(2.0 ** np.round(2 - np.log2(form.head_dim) / 2))
    return arrays


def reference(form: AttentionForm, node: Node) -> Attention:
    """The oracle for the node."""
    return dataclasses.replace(cases.attention(form, node.arrays), epsilon=EPSILON)


def positions_of(node: Node) -> Array:
    """Positions (B, S) of the new tokens."""
    if "position_ids" in node.arrays:
        return node.arrays["position_ids"]
    batch, new, _ = node.arrays["QKV"].shape
    total = node.arrays["attention_mask"].shape[1]
    return counted(Shape(batch, new, total, 0))


def expected_caches(form: AttentionForm, node: Node) -> tuple[Array, Array]:
    """The caches after the call."""
    arrays = node.arrays
    _, key, value = reference(form, node).heads(arrays["QKV"], positions_of(node))
    total = arrays["attention_mask"].shape[1]
    return (
        put(arrays["past_key"], stored(form, key), total),
        put(arrays["past_value"], stored(form, value), total),
    )


def assert_attended(form: AttentionForm, node: Node, y: Array, caches: list[Array]) -> None:
    """Y is what queries of the node find in these caches, see `TOLERANCE`."""
    oracle, mask = reference(form, node), node.arrays["attention_mask"]
    query, *_ = oracle.heads(node.arrays["QKV"], positions_of(node))
    keys, values = (read(form, cache[:, :, : mask.shape[1]]) for cache in caches)
    wanted = oracle.attend(query, keys, values, mask)
    assert y.shape == wanted.shape
    np.testing.assert_allclose(y, wanted, rtol=0, atol=TOLERANCE * np.abs(values).max())


def assert_within_a_step(form: AttentionForm, actual: Array, wanted: Array) -> None:
    """No number that one cache holds is further than a step from what the other holds."""
    assert actual.shape == wanted.shape
    one, other = read(form, actual), read(form, wanted)
    # A scale that falls to the other side of a bfloat16 moves all of a part by up to 2**-7.
    assert np.all(np.abs(one - other) <= 1.01 * steps(form, wanted) + np.abs(other) / 64)


def steps(form: AttentionForm, cache: Array) -> Array:
    """The size of one step of every coefficient (..., d) of records (..., R)."""
    layout, columns = form.layout, []
    for part in layout.parts():
        start = layout.offset(f"{part.name}_scale")
        two_bytes = np.ascontiguousarray(cache[..., start : start + 2])
        scale = two_bytes.view(np.dtype("<u2")).astype(np.uint32) << 16  # bfloat16 to float32
        columns.append(np.repeat(scale.view(np.float32), part.rank, axis=-1))
    return np.concatenate(columns, axis=-1).astype(np.float64)


def piece_of(whole: Node, start: int, stop: int) -> Node:
    """Tokens start to stop of a first call."""
    arrays = {
        "QKV": whole.arrays["QKV"][:, start:stop].copy(),
        "attention_mask": whole.arrays["attention_mask"][:, :stop].copy(),
    }
    if "position_ids" in whole.arrays:
        arrays["position_ids"] = whole.arrays["position_ids"][:, start:stop].copy()
    return whole.with_arrays(**arrays)


def with_pasts(node: Node, pasts: list[Array]) -> Node:
    """The node with these caches, not copied."""
    return node.with_arrays(**{past: array for (past, _), array in zip(PAIRS, pasts, strict=True)})


def decoded(whole: Node, prompt: int, steps: int) -> Array:
    """Y of a prompt at once, and then of one token after the other."""
    session, pasts, outputs = whole.open(), [whole.arrays[past] for past, _ in PAIRS], []
    for start, stop in [(0, prompt), *((prompt + i, prompt + i + 1) for i in range(steps))]:
        y, *pasts = session.run(None, with_pasts(piece_of(whole, start, stop), pasts).feeds())
        outputs.append(y)
    return np.concatenate(outputs, axis=1)
