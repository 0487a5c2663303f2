"""Name the weight with which a layer of a folded float graph departs from PyTorch's.

A layer is checked by its two sums only. Where one is wrong, this compares the values inside that
half, in the order in which they are computed: the first one that differs tells what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.measured import ReferenceMeasurements
from resq_onnx.evaluation.parity import FLOAT_TOLERANCE
from resq_onnx.families import ModelLayout
from resq_onnx.graph.pieces import HALVES

Array = NDArray[np.float32]

VISIBLE: Final = FLOAT_TOLERANCE / 10
"""Error of a value, relative to its size, that counts as a difference. The next operators may make
it ten times as large; float32 rounds the values of SmolLM2's layers by up to 1.3e-6."""

BETWEEN: Final = {
    "attention_out": "the attention, which has no weight but the norms of queries and keys",
    "down": "the gate's activation or the rotation before it, and no weight",
}
"""By the role of a half's last linear layer, what computes its input."""


def name_fault(
    measured: ReferenceMeasurements,
    layer: int,
    out: str,
    expected: Sequence[Array],
    found: Sequence[Array],
) -> str:
    """Words for the first value of a half layer that differs.

    Args:
        measured: The bases of the graph.
        layer: Which layer.
        out: The role of the half's last linear layer, a key of `HALVES`.
        expected: PyTorch's `half_values`.
        found: Those of the graph.
    """
    layout, roles = measured.layout, HALVES[out]
    last, source = layout.module(layer, out), f"{out}_input"
    ends = np.cumsum([layout.outputs_of(role) for role in roles])[:-1]
    pairs = zip(
        (*roles, source, out),
        (*np.split(expected[0], ends, -1), *expected[1:]),
        (*np.split(found[0], ends, -1), *found[1:]),
        strict=True,
    )
    wrong = {name for name, one, other in pairs if _differs(measured, layer, name, one, other)}
    if of_roles := [_name(layout, layer, role) for role in roles if role in wrong]:
        more = ", or what they read" if len(of_roles) == len(roles) else ""
        return f"the first difference is in the output of {', '.join(of_roles)}{more}"
    if source in wrong:
        return f"the first difference is in the input of {last}: {BETWEEN[out]}"
    if out in wrong:
        return f"the first difference is in the output of {last}"
    return f"up to the output of {last} nothing differs"


def _differs(
    measured: ReferenceMeasurements, layer: int, name: str, expected: Array, found: Array
) -> bool:
    turned = _in_graph(measured, layer, name, expected)
    return not np.linalg.norm(found - turned) <= VISIBLE * np.linalg.norm(turned)


def _in_graph(measured: ReferenceMeasurements, layer: int, name: str, x: Array) -> Array:
    """A value of PyTorch's in the basis in which a folded graph has it, (B, S, ...)."""
    if not measured.recipe.how.quantises:
        return x
    bases, transform = measured.projections, measured.projections.down[layer]
    match name:
        case "value" | "attention_out_input":
            return bases.apply_value(layer, x)
        case "gate":
            return x[..., transform.order]
        case "up":
            return np.asarray(x[..., transform.order] * transform.signs)
        case "down_input":
            return bases.apply_down(layer, x)
        case "attention_out" | "down" if measured.stream_basis is not None:
            return np.asarray(x @ measured.stream_basis)
    return x


def _name(layout: ModelLayout, layer: int, role: str) -> str:
    """The module that computes a role, as the checkpoint has it."""
    which = f" ({role})" if layout.family.stored_in(role) in layout.family.fused else ""
    return layout.stored_module(layer, role) + which
