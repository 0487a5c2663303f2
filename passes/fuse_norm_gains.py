"""RMSNorm(x) · diag(g) · Wᵀ  →  RMSNorm(x) · (W · diag(g))ᵀ, and g becomes ones.

Without its gain an RMSNorm commutes with every rotation of the residual stream.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import find_linear, find_weight, head_input
from resq_onnx.graph.tensors import fold, read_float64

READERS = {"attention_norm": ("query", "key", "value"), "mlp_norm": ("gate", "up")}
"""The linear layers that read each norm of a decoder layer."""


class FuseNormGains(ir.passes.InPlacePass):
    """Fold the gain of every norm into the columns of the linear layers that read it."""

    def __init__(self, layout: ModelLayout, *, shares_table: bool = False) -> None:
        """Take the names from `layout`; with a shared table, `SplitHead` must have run."""
        family = layout.family
        head = head_input(layout) if shares_table else family.head
        self._readers = {
            layout.module(layer, norm): [layout.module(layer, role) for role in roles]
            for layer in range(layout.num_layers)
            for norm, roles in READERS.items()
        } | {family.final_norm: [head]}

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        for norm, readers in self._readers.items():
            self._fuse(model, norm, readers)
        return ir.passes.PassResult(model, modified=True)

    def _fuse(self, model: ir.Model, norm: str, readers: list[str]) -> None:
        value = find_weight(model, norm)
        gain = read_float64(value.const_value)  # (D,): small enough to hold
        for reader in readers:
            fold(find_linear(model, reader).weight, lambda w: w * gain, by_rows=True)
        value.const_value = ir.tensor(np.ones(gain.shape, np.float32), name=value.name)
