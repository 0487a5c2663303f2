"""Variants of the operators with FLOAT16 or BFLOAT16 activations, computing in float32.

T is the type of the activations. A typed function first casts its activations to float32, and
last casts its result to T: it rounds once, where a kernel stores. In between it is the float32
function, node by node.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

ACTIVATIONS: Final = frozenset({"X", "residual", "QKV", "gate_up", "Y"})
"""Names of the inputs and outputs of type T, in every operator. All others are parameters and
caches, whose type does not depend on T."""


def in_type(function: ir.Function, dtype: ir.DataType) -> ir.Function:
    """A variant of a function of this domain with activations of another type.

    Args:
        function: The float32 function; it is not changed.
        dtype: T.

    Returns:
        A function of the same name, whose overload ends with the type.
    """
    typed = function.clone()
    typed.overload = f"{function.overload}_{dtype.name.lower()}"
    activations = [value for value in typed.inputs if value.name in ACTIVATIONS]
    for value in activations:
        value.type = ir.TensorType(dtype)
        readers = list(value.uses())
        if not readers:  # an optional input that this form omits
            continue
        widened = _cast(value, ir.DataType.FLOAT, f"{value.name}_float")
        for node, place in readers:
            node.replace_input_with(place, widened.outputs[0])
        typed.insert_before(typed[0], widened)
    for place, result in enumerate(typed.outputs):
        if result.name not in ACTIVATIONS:
            continue
        name, result.name = result.name, f"{result.name}_float"
        narrowed = _cast(result, dtype, name)
        typed.append(narrowed)
        typed.outputs[place] = narrowed.outputs[0]
    return typed


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": dtype}, name=f"cast_{name}")
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
    node.outputs[0].shape = value.shape
    return node
