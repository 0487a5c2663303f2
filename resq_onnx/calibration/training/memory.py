"""How much memory training takes, estimated before it begins."""

from __future__ import annotations

from typing import Final

from resq_onnx.calibration.training.loss import LOGITS
from resq_onnx.families import ModelLayout

STREAM_ARRAYS: Final = 16
"""Arrays of a layer as wide as the residual stream that are kept for the backward pass: two norms,
two changes of basis, their rounding, and two sums."""

HEAD_ARRAYS: Final = 6
"""As wide as all queries, keys and values: before and after RoPE, U_B or U_C, and rounding."""

INNER_ARRAYS: Final = 12
"""As wide as the input of down_proj: gate, up, their product, U_D there and back, rounding."""


def bytes_of_training(
    layout: ModelLayout, parameters: int, tokens: int, *, recomputes: bool
) -> int:
    """Bytes that training takes beside the process itself.

    Args:
        layout: Of the model.
        parameters: Number of its weights, in float32.
        tokens: Of a sequence.
        recomputes: Whether layers keep only their input for the backward pass.
    """
    heads = (layout.num_heads + 2 * layout.num_kv_heads) * layout.head_dim
    stream, inner = layout.hidden_size, layout.intermediate_size
    a_layer = 4 * tokens * (STREAM_ARRAYS * stream + HEAD_ARRAYS * heads + INNER_ARRAYS * inner)
    kept = layout.num_layers * (4 * tokens * stream if recomputes else a_layer)
    activations = kept + a_layer + 4 * 4 * LOGITS
    per_head = layout.num_layers * layout.num_kv_heads * layout.head_dim**2
    rotations = 8 * 4 * (stream**2 + 2 * per_head)
    return 4 * parameters + rotations + activations
