"""Operators of ai.resq on float32 activations  →  the same on FLOAT16 or BFLOAT16 activations.

T is the new type, `--dtype`. Weights, other parameters and caches keep their types.

1. Each operator calls the function of its form with activations in T.
2. lm_head and the logits stay in float32: their order decides the next token.
3. A Cast to float32 precedes other operators that read an activation in T. A Cast to T precedes an
   operator of ai.resq that reads a float32 value. The last token is selected in T.
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
"""T by name in a recipe."""

COUNTING: Final = "Shape"
CHOOSING: Final = "GatherND"
"""Operators that only count or select, and so accept any type."""


class NarrowActivations(ir.passes.InPlacePass):
    """Change the type of the activations between the operators of the layers."""

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
        """Let a node call its function in T; returns its outputs that are now in T."""
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
    """Put a Cast before an input of a node, or reuse the value's existing Cast."""
    value = reader.inputs[place]
    assert value is not None
    if value not in casts:
        cast = ir.node("Cast", [value], {"to": dtype}, name=f"{value.name}.{dtype.name.lower()}")
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(dtype), value.shape
        model.graph.insert_before(reader, tag(cast, module_of(reader)))
        casts[value] = cast.outputs[0]
    reader.replace_input_with(place, casts[value])
