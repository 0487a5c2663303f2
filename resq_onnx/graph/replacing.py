"""Find an attention node, and replace nodes by a new one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir

from resq_onnx.graph.modules import nodes_of
from resq_onnx.graph.names import DOMAIN

ATTENTIONS = ("RotaryAttention", "MixedPrecisionAttention")

KEY_PROJECTION: Final = 7
"""Place of U_C among the inputs of an attention node."""


def find_attention(model: ir.Model, module: str) -> ir.Node:
    """The only attention node of a lifted module.

    Raises:
        ValueError: The module was not lifted.
    """
    found = [
        node
        for node in nodes_of(model, module)
        if node.domain == DOMAIN and node.op_type in ATTENTIONS
    ]
    if len(found) != 1:
        raise ValueError(f"{module}: {len(found)} attention nodes, expected 1")
    return found[0]


def put_in_place_of(model: ir.Model, old: Sequence[ir.Node], new: ir.Node) -> None:
    """Replace `old` by `new`, whose outputs take the place of those of the last old node.

    The outputs keep their names, which may be those of graph outputs.
    """
    last = old[-1]
    model.graph.insert_before(last, new)
    names = [value.name for value in last.outputs]
    for before, after in zip(last.outputs, new.outputs, strict=True):
        after.shape = after.shape if before.shape is None else before.shape
        before.replace_all_uses_with(after, replace_graph_outputs=True)
        before.name = None
    model.graph.remove(list(old), safe=True)
    for after, name in zip(new.outputs, names, strict=True):
        after.name = name
