"""Operators of ai.resq on float32 activations  →  the same on FLOAT16 or BFLOAT16 ones.

T is the new type, `--dtype`; weights, other parameters and caches keep theirs.

1. Each operator calls the function of its form with activations in T.
2. lm_head stays in float32, and the logits with it: on their order hangs the choice of a token.
3. A Cast to float32 comes before another operator that reads an activation, and a Cast to T before
   one of ai.resq that reads what another has made. The choice of the last token is made in T.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.functions import ACTIVATIONS, in_type
from resq_onnx.graph.modules import module_of, tag
from resq_onnx.graph.names import DOMAIN
from resq_onnx.recipe import Recipe

DTYPES: Final = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
"""T by its name in a recipe."""

COUNTING: Final = "Shape"
CHOOSING: Final = "GatherND"
"""Operators that compute with no number they read, so that its type is all one to them."""


class NarrowActivations(ir.passes.InPlacePass):
    """Change the type of what flows between the operators of the layers."""

    def __init__(self, layout: ModelLayout, recipe: Recipe) -> None:
        """Take the names from `layout`, T from `recipe`."""
        self._head = layout.family.head
        self._dtype = DTYPES[recipe.dtype]

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        narrow: set[ir.Value] = set()
        casts: dict[ir.Value, ir.Value] = {}
        for node in list(model.graph):
            if node.domain == DOMAIN and module_of(node) != self._head:
                narrow.update(self._narrow(model, node, narrow, casts))
            elif node.op_type == CHOOSING and node.inputs[0] in narrow:
                node.outputs[0].type = ir.TensorType(self._dtype)
                narrow.add(node.outputs[0])
            elif node.op_type != COUNTING:
                for place, value in enumerate(node.inputs):
                    if value in narrow:
                        _read_as(model, node, place, ir.DataType.FLOAT, casts)
        return ir.passes.PassResult(model, modified=bool(narrow))

    def _narrow(
        self,
        model: ir.Model,
        node: ir.Node,
        narrow: set[ir.Value],
        casts: dict[ir.Value, ir.Value],
    ) -> list[ir.Value]:
        """Let a node call its function in T; returns those of its outputs that are in T now."""
        function = model.functions[node.op_identifier()]
        typed = in_type(function, self._dtype)
        node.overload = typed.overload
        model.functions.setdefault(node.op_identifier(), typed)
        for place, (value, known) in enumerate(zip(node.inputs, function.inputs, strict=False)):
            if value is not None and known.name in ACTIVATIONS and value not in narrow:
                _read_as(model, node, place, self._dtype, casts)
        results = [
            value
            for value, known in zip(node.outputs, function.outputs, strict=True)
            if known.name in ACTIVATIONS
        ]
        for value in results:
            value.type = ir.TensorType(self._dtype)
        return results


def _read_as(
    model: ir.Model,
    reader: ir.Node,
    place: int,
    dtype: ir.DataType,
    casts: dict[ir.Value, ir.Value],
) -> None:
    """Put a Cast before an input of a node, or use the one that the same value has already."""
    value = reader.inputs[place]
    assert value is not None
    if value not in casts:
        cast = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}.{dtype.name.lower()}")
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(dtype), value.shape
        model.graph.insert_before(reader, tag(cast, module_of(reader)))
        casts[value] = cast.outputs[0]
    reader.replace_input_with(place, casts[value])
