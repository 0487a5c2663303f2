"""The traced attention of a layer  →  Concat(q, k, v) · RotaryAttention.

Masks, views, RoPE, the cache's concatenation and the copies of kv heads are dozens of nodes that
depend on sizes; the whole scope is replaced instead of matched.

1. The shared tables cos and sin, (positions, d/2), are nodes over constants: a runtime folds
   them when it loads the file, and the file stays small.
2. The inputs are the results of q_proj, k_proj, v_proj and the layer's past.
3. What o_proj reads, and the layer's present, become the outputs.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.functions import RotaryForm, add_call
from resq_onnx.passes.modules import find_linear, find_weight, new_initializer, only_node, tag


def rotary_form(layout: ModelLayout, *, rotates_keys: bool) -> RotaryForm:
    """The form of every attention node of a model."""
    return RotaryForm(
        num_heads=layout.num_heads,
        kv_num_heads=layout.num_kv_heads,
        head_dim=layout.head_dim,
        rotary_dim=layout.head_dim,
        rotates_keys=rotates_keys,
    )


class LiftAttention(ir.passes.InPlacePass):
    """Replace the traced attention of every layer by one node."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take sizes and names from `layout`."""
        self._layout = layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        tables = _rotary_tables(model, self._layout)
        for layer in range(self._layout.num_layers):
            self._lift(model, layer, tables)
        return ir.passes.PassResult(model, modified=True)

    def _lift(self, model: ir.Model, layer: int, tables: tuple[ir.Value, ir.Value]) -> None:
        layout, graph = self._layout, model.graph
        module = layout.module(layer, "attention")
        inputs = {value.name: value for value in graph.inputs}
        past = [inputs[f"past_key_values.{layer}.{part}"] for part in ("key", "value")]
        parts = [
            find_linear(model, layout.module(layer, role)) for role in ("query", "key", "value")
        ]
        out = find_linear(model, layout.module(layer, "attention_out"))
        joined = tag(
            ir.node("Concat", [part.result for part in parts], {"axis": -1}, name=f"{module}.qkv"),
            module,
        )
        present = [f"present.{layer}.key", f"present.{layer}.value"]
        attention = add_call(
            model,
            rotary_form(layout, rotates_keys=False),
            [joined.outputs[0], *past, inputs["attention_mask"], inputs["position_ids"], *tables],
            {"scale": only_node(model, module, "Attention").attributes.get_float("scale")},
            f"{module}.attention",
            [f"{module}.attention.out", *present],
        )
        graph.insert_before(out.nodes[0], [joined, tag(attention, module)])
        out.multiply.replace_input_with(0, attention.outputs[0])
        for index, value in enumerate(graph.outputs):
            if value.name in present:
                new = attention.outputs[1 + present.index(value.name)]
                value.name, new.shape, graph.outputs[index] = None, value.shape, new


def _rotary_tables(model: ir.Model, layout: ModelLayout) -> tuple[ir.Value, ir.Value]:
    """cos and sin of position · frequency for every position of the model."""
    module = layout.family.rotary
    frequencies = find_weight(model, module, "inv_freq")
    positions = new_initializer(
        model, f"{module}.positions", ir.tensor(np.array(layout.max_positions, np.int64))
    )
    zero = new_initializer(model, f"{module}.zero", ir.tensor(np.array(0, np.int64)))
    one = new_initializer(model, f"{module}.one", ir.tensor(np.array(1, np.int64)))
    last_axis = new_initializer(model, f"{module}.last_axis", ir.tensor(np.array([-1], np.int64)))
    count = ir.node("Range", [zero, positions, one], name=f"{module}.range")
    cast = ir.node("Cast", [count.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{module}.cast")
    column = ir.node("Unsqueeze", [cast.outputs[0], last_axis], name=f"{module}.column")
    angles = ir.node("Mul", [column.outputs[0], frequencies], name=f"{module}.angles")
    cos = ir.node("Cos", [angles.outputs[0]], name=f"{module}.cos")
    sin = ir.node("Sin", [angles.outputs[0]], name=f"{module}.sin")
    count.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    nodes = [tag(node, module) for node in (count, cast, column, angles, cos, sin)]
    model.graph.insert_before(model.graph[0], nodes)
    return cos.outputs[0], sin.outputs[0]
