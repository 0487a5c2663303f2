"""How much memory training takes, estimated before it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from resq_onnx.calibration.training.loss import LOGITS
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.projections.splits import weight_counts

STREAM_ARRAYS: Final = 8
"""Arrays of a layer as wide as the residual stream that are kept for the backward pass: two norms,
what reads them, and two sums."""

BASIS_ARRAYS: Final = 8
"""As wide, kept for the gradient of U_A: there and back, around the rounding, behind two norms."""

HEAD_ARRAYS: Final = 6
"""As wide as all queries, keys and values: before and after RoPE, U_B or U_C, and rounding."""

INNER_ARRAYS: Final = 6
"""As wide as the input of down_proj: gate, its activation, up, and their product before and after
rounding."""

ADAM_ARRAYS: Final = 3
"""As large as what is tuned: gradients, and two moving averages of them."""


def bytes_of_training(source: ModelSource, tokens: int, recomputes: bool) -> int:
    """Bytes that training rotations takes beside the process itself.

    Args:
        source: The model, which is loaded in float32.
        tokens: Of a sequence.
        recomputes: Whether layers keep only their input for the backward pass.
    """
    layout = source.layout
    per_head = layout.num_layers * layout.num_kv_heads * layout.head_dim**2
    rotations = 8 * 4 * (layout.hidden_size**2 + 2 * per_head)
    a_pass = _bytes_of_a_pass(layout, tokens, STREAM_ARRAYS + BASIS_ARRAYS, recomputes)
    return source.whole_bytes + rotations + a_pass


def bytes_of_tuning(source: ModelSource, shape: tuple[int, int], recomputes: bool) -> int:
    """Bytes that tuning weights takes beside the process itself.

    Args:
        source: The model, which is loaded in float32.
        shape: Sequences and their tokens; the float model's results are kept.
        recomputes: Whether layers keep only their input for the backward pass.
    """
    layout = source.layout
    expected = 4 * math.prod(shape) * layout.hidden_size
    a_pass = _bytes_of_a_pass(layout, shape[1], STREAM_ARRAYS, recomputes)
    return source.whole_bytes + ADAM_ARRAYS * bytes_of_matrices(layout) + expected + a_pass


def bytes_of_matrices(layout: ModelLayout) -> int:
    """Of the layers' matrices, in float32."""
    return 4 * layout.num_layers * sum(weight_counts(layout).values())


def must_recompute(needed: Mapping[bool, int], room: int | None, what: str, remedy: str) -> bool:
    """Whether only the layers' inputs can be kept for the backward pass.

    Args:
        needed: Bytes for each answer.
        room: Bytes that may be taken; None for no limit.
        what: Is done, for the message.
        remedy: What else to do where both need more.

    Raises:
        ResqError: Not even these can; says how much is needed.
    """
    for recomputes in (False, True):
        if room is None or needed[recomputes] <= room:
            return recomputes
    raise ResqError(
        f"{what} of this model takes {needed[True] / 1e9:.1f} GB, and "
        f"{max(room or 0, 0) / 1e9:.1f} may be taken; use --max-memory, a smaller "
        f"--sequence-length, or {remedy}"
    )


def _bytes_of_a_pass(layout: ModelLayout, tokens: int, stream_arrays: int, recomputes: bool) -> int:
    heads = (layout.num_heads + 2 * layout.num_kv_heads) * layout.head_dim
    stream, inner = layout.hidden_size, layout.intermediate_size
    a_layer = 4 * tokens * (stream_arrays * stream + HEAD_ARRAYS * heads + INNER_ARRAYS * inner)
    kept = layout.num_layers * (4 * tokens * stream if recomputes else a_layer)
    return kept + a_layer + 4 * 4 * LOGITS
