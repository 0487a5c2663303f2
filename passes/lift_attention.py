"""The traced attention of a layer  →  Concat(q, k, v) · RotaryAttention.

Masks, views, RoPE, the cache's concatenation and the copies of kv heads are dozens of nodes that
depend on sizes. The whole scope is therefore replaced, not matched.

1. The shared tables cos and sin, (positions, d/2), are nodes over constants: a runtime folds
   them when it loads the file, and the file stays small.
2. The inputs are the results of q_proj, k_proj, v_proj, the layer's past, and, if a model
   normalises queries and keys, the gains of these norms.
3. The outputs are the input of o_proj and the layer's present.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from resq_onnx.families import ModelLayout
from resq_onnx.functions import RotaryForm, add_call
from resq_onnx.graph.modules import find_linear, find_weight, new_initializer, tag
from resq_onnx.passes.lift_norms import stored_gain

UNTURNED_DIM: Final = 2
"""The smallest rotary_dim: a layer without RoPE rotates one pair of coefficients by angle 0."""


def rotary_form(layout: ModelLayout, layer: int, *, rotates_keys: bool) -> RotaryForm:
    """The form of the attention node of a layer."""
    attention = layout.attention_of(layer)
    rotary_dim = layout.rotary_dim or layout.head_dim
    return RotaryForm(
        num_heads=layout.num_heads,
        kv_num_heads=layout.num_kv_heads,
        head_dim=layout.head_dim,
        rotary_dim=UNTURNED_DIM if attention.frequencies is None else rotary_dim,
        rotates_keys=rotates_keys,
        qk_norm=layout.norms_heads,
        window=attention.window,
        caps_scores=layout.softcap is not None,
    )


def attention_attributes(node: ir.Node) -> dict[str, float]:
    """The free attributes of an attention node, for the node that replaces it."""
    return {
        name: node.attributes.get_float(name)
        for name in ("scale", "norm_epsilon", "softcap")
        if name in node.attributes
    }


class LiftAttention(ir.passes.InPlacePass):
    """Replace the traced attention of every layer by one node."""

    def __init__(self, layout: ModelLayout) -> None:
        """Take sizes and names from `layout`."""
        self._layout = layout

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        layout = self._layout
        names = {layout.attention_of(layer).frequencies for layer in range(layout.num_layers)}
        tables = {name: _rotary_tables(model, layout, name) for name in sorted(names, key=str)}
        for layer in range(layout.num_layers):
            self._lift(model, layer, tables[layout.attention_of(layer).frequencies])
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
        gains, epsilon = self._head_norms(model, layer)
        cap = {} if layout.softcap is None else {"softcap": layout.softcap}
        mask, positions = inputs["attention_mask"], inputs["position_ids"]
        attention = add_call(
            model,
            rotary_form(layout, layer, rotates_keys=False),
            [joined.outputs[0], *past, mask, positions, *tables, None, *gains],
            {"scale": layout.scale, **epsilon, **cap},
            f"{module}.attention",
            [f"{module}.attention.out", *present],
        )
        graph.insert_before(out.nodes[0], [joined, tag(attention, module)])
        out.multiply.replace_input_with(0, attention.outputs[0])
        for index, value in enumerate(graph.outputs):
            if value.name in present:
                new = attention.outputs[1 + present.index(value.name)]
                value.name, new.shape, graph.outputs[index] = None, value.shape, new

    def _head_norms(self, model: ir.Model, layer: int) -> tuple[list[ir.Value], dict[str, float]]:
        """Gains and epsilon of the norms of queries and keys; nothing if there are none."""
        layout = self._layout
        if not layout.norms_heads:
            return [], {}
        modules = [layout.module(layer, role) for role in ("query_norm", "key_norm")]
        gains = [stored_gain(model, layout, module) for module in modules]
        return gains, {"norm_epsilon": layout.norm_epsilon}


def _rotary_tables(
    model: ir.Model, layout: ModelLayout, name: str | None
) -> tuple[ir.Value, ir.Value]:
    """cos and sin of position · frequency for every position of the model, times YaRN's factor.

    Args:
        model: The model that gets the nodes.
        layout: Its sizes and names.
        name: The buffer of the rotary module with the frequencies; None for a frequency of 0.
    """
    module = layout.family.rotary
    if name is None:
        module = f"{module}.unturned"
        still = ir.tensor(np.zeros(1, np.float32))
        frequencies = new_initializer(model, f"{module}.frequency", still)
    else:
        frequencies = find_weight(model, module, name)
        module += "" if name == "inv_freq" else f".{name}"
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
    nodes = [count, cast, column, angles, cos, sin]
    if layout.rope_factor != 1.0 and name is not None:
        stretch = ir.tensor(np.array(layout.rope_factor, np.float32))
        factor = new_initializer(model, f"{module}.factor", stretch)
        nodes += [
            ir.node("Mul", [table.outputs[0], factor], name=f"{table.name}.scaled")
            for table in (cos, sin)
        ]
    for node in nodes:
        tag(node, module)
    model.graph.insert_before(model.graph[0], nodes)
    return nodes[-2].outputs[0], nodes[-1].outputs[0]
