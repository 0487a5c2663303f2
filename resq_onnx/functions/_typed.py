"""The operators with activations of another type than float32, which their bodies compute in.

T is FLOAT16 or BFLOAT16. A typed function casts its activations to float32 before anything else,
and its result to T behind all else: it rounds once, where a kernel stores. Everything between is
the function in float32, node by node.
"""

from __future__ import annotations

from typing import Final

import onnx_ir as ir

ACTIVATIONS: Final = frozenset({"X", "residual", "QKV", "gate_up", "Y"})
"""Inputs and outputs of type T, in every operator that has one of this name. All others are
parameters and caches: their type does not depend on T."""


def in_type(function: ir.Function, dtype: ir.DataType) -> ir.Function:
    """A function of this domain with activations of another type.

    Args:
        function: In float32; it stays as it is.
        dtype: T.

    Returns:
        A function of the same name, whose overload says the type too.
    """
    typed = function.clone()
    typed.overload = f"{function.overload}_{dtype.name.lower()}"
    activations = [value for value in typed.inputs if value.name in ACTIVATIONS]
    for value in activations:
        value.type = ir.TensorType(dtype)
        readers = list(value.uses())
        if not readers:  # an optional input that this form leaves out
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
