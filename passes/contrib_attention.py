"""RotaryAttention  →  GroupQueryAttention of ONNX Runtime.

1. The kernel applies RoPE itself, with the same tables of cos and sin.
2. It does not take attention_mask but the token count of each text and of the longest one, so
   padding may only follow a text. position_ids is no longer an input: the position of a token is
   its place in the cache.
3. An INT8 cache has one scale per coefficient of a kv head. The largest value it can store is
   CACHE_RANGE times the root mean square of that coefficient.
4. With a FLOAT16 cache the whole operator computes in FLOAT16, between two Casts.
5. Other features of the kernel, such as windows, are untested; models that need them are refused.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.graph.modules import module_of, new_initializer, tag
from resq_onnx.graph.names import CONTRIB_DOMAIN, CONTRIB_VERSION
from resq_onnx.graph.replacing import find_attention, put_in_place_of
from resq_onnx.projections import Projections
from resq_onnx.projections.sums import BasisSums


def refuse_other_attention(layout: ModelLayout) -> None:
    """Refuse a model whose attention is more than RoPE on whole heads and a causal softmax.

    Raises:
        ResqError: The model has other features; the message lists them.
    """
    layers = [layout.attention_of(layer) for layer in range(layout.num_layers)]
    plain = layout.attention_of(layout.num_layers)  # the family's default
    beyond = {
        "norms of queries and keys": layout.norms_heads,
        "capped scores": layout.softcap is not None,
        "partial RoPE": layout.rotary_dim not in (None, layout.head_dim),
        "layers without RoPE": any(layer.frequencies is None for layer in layers),
        "sliding windows": any(layer.window != plain.window for layer in layers),
    }
    found = [name for name, present in beyond.items() if present]
    if found:
        raise ResqError(
            f"formats contrib and web do not support {', '.join(found)}, which this "
            f"{layout.family.name} model uses; use format custom or qdq"
        )


MODULE = "model.lengths"
"""Module name of the nodes that count tokens."""

CACHE_RANGE: Final = 6.0
"""Range of an INT8 cache in root mean squares; larger values are clipped. The choice matters
little: with 5, 8 and 12 SmolLM2 has a KL divergence of 0.116, 0.124 and 0.130 nats from the float
model, and 0.117 with a float cache."""

LARGEST_INTEGER: Final = 127

LEAST_SCALE: Final = 1e-30
"""Scale of a coefficient that is always zero: the kernel divides by it."""

Scales = NDArray[np.float32]


def cache_scales(projections: Projections, sums: BasisSums) -> tuple[Scales, Scales]:
    """Scales of an INT8 cache: for keys after RoPE, and for values in their basis U_B.

    Returns:
        Scales of keys and of values, each (layers, kv heads, d).
    """
    tokens = max(sums.tokens, 1)
    bases = projections.value  # (layers, G, d, d)
    keys = np.diagonal(sums.key, axis1=2, axis2=3)
    values = np.einsum("lgij,lgik,lgkj->lgj", bases, sums.value, bases)
    keys, values = (
        np.maximum(CACHE_RANGE / LARGEST_INTEGER * np.sqrt(energies / tokens), LEAST_SCALE)
        for energies in (keys, values.clip(min=0.0))
    )
    return keys.astype(np.float32), values.astype(np.float32)


class ContribAttention(ir.passes.InPlacePass):
    """Use ONNX Runtime's attention operator, with a FLOAT, FLOAT16 or INT8 cache."""

    def __init__(
        self,
        layout: ModelLayout,
        scales: tuple[Scales, Scales] | None = None,
        *,
        halves: bool = False,
    ) -> None:
        """Take names from `layout`; `scales` make the cache INT8, `halves` makes it FLOAT16."""
        self._layout = layout
        self._scales = scales
        self._halves = halves

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        lengths = _token_counts(model)
        for layer in range(self._layout.num_layers):
            self._replace(model, layer, lengths)
        positions = next(value for value in model.graph.inputs if value.name == "position_ids")
        if not positions.uses():
            model.graph.inputs.remove(positions)
        model.graph.opset_imports[CONTRIB_DOMAIN] = CONTRIB_VERSION
        return ir.passes.PassResult(model, modified=True)

    def _replace(self, model: ir.Model, layer: int, lengths: tuple[ir.Value, ir.Value]) -> None:
        module = self._layout.module(layer, "attention")
        old = find_attention(model, module)
        qkv, past_key, past_value, _, _, cos, sin, *more = old.inputs
        if old.op_type != "RotaryAttention" or any(value is not None for value in more):
            raise ResqError(
                f"{module}: format contrib does not support attention with a quantised cache, "
                "rotated keys, or norms of queries and keys; use format custom or qdq"
            )
        assert past_key is not None
        assert past_value is not None
        attributes = old.attributes
        inputs = [qkv, None, None, past_key, past_value, *lengths, cos, sin]
        chosen: dict[str, int | float | str] = {
            "num_heads": attributes.get_int("num_heads"),
            "kv_num_heads": attributes.get_int("kv_num_heads"),
            "scale": attributes.get_float("scale"),
            "do_rotary": 1,
        }
        if self._scales is not None:
            inputs += [None, None, None]
            for name, scales in zip(("key", "value"), self._scales, strict=True):
                tensor = ir.tensor(scales[layer].ravel())
                inputs.append(new_initializer(model, f"{module}.{name}_scale", tensor))
            chosen |= dict.fromkeys(("k_quant_type", "v_quant_type"), "PER_CHANNEL")
            chosen["kv_cache_bit_width"] = 8
        new = ir.node(
            "GroupQueryAttention",
            inputs,
            chosen,
            domain=CONTRIB_DOMAIN,
            name=f"{module}.grouped",
            num_outputs=3,
        )
        put_in_place_of(model, [old], tag(new, module))
        if self._scales is not None or self._halves:
            stored = ir.TensorType(ir.DataType.FLOAT16 if self._halves else ir.DataType.INT8)
            for value in (past_key, past_value, *new.outputs[1:]):
                value.type = stored
        if self._halves:
            _compute_in_halves(model, new, module)


def _compute_in_halves(model: ir.Model, attention: ir.Node, module: str) -> None:
    """Put a Cast before every float input of a node except the cache, and one after its result."""
    result = attention.outputs[0]
    back = ir.node("Cast", [result], {"to": ir.DataType.FLOAT}, name=f"{module}.float")
    result.replace_all_uses_with(back.outputs[0])
    back.replace_input_with(0, result)
    result.type = ir.TensorType(ir.DataType.FLOAT16)
    model.graph.insert_after(attention, tag(back, module))
    for place, name in ((0, "qkv"), (7, "cos"), (8, "sin")):
        value = attention.inputs[place]
        assert value is not None
        known = [use for use in value.consumers() if use.op_type == "Cast"]
        cast = known[0] if known else _halved(model, value, attention, f"{module}.{name}.float16")
        attention.replace_input_with(place, cast.outputs[0])


def _halved(model: ir.Model, value: ir.Value, before: ir.Node, name: str) -> ir.Node:
    """A Cast to FLOAT16; all layers share those of the cos and sin tables."""
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT16}, name=name)
    cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    model.graph.insert_before(before, tag(cast, module_of(before)))
    return cast


def _token_counts(model: ir.Model) -> tuple[ir.Value, ir.Value]:
    """Token count of each text minus 1, INT32 (B,), and of the longest with padding, INT32 ().

    The nodes are inserted at the start of the graph.
    """
    mask = next(value for value in model.graph.inputs if value.name == "attention_mask")
    one = new_initializer(model, f"{MODULE}.one", ir.tensor(np.array(1, np.int64)))
    axis = new_initializer(model, f"{MODULE}.axis", ir.tensor(np.array([1], np.int64)))
    count = ir.node("ReduceSum", [mask, axis], {"keepdims": 0}, name=f"{MODULE}.tokens")
    last = ir.node("Sub", [count.outputs[0], one], name=f"{MODULE}.last")
    shape = ir.node("Shape", [mask], name=f"{MODULE}.shape")
    total = ir.node("Gather", [shape.outputs[0], one], name=f"{MODULE}.total")
    casts = [
        ir.node("Cast", [node.outputs[0]], {"to": ir.DataType.INT32}, name=f"{node.name}.int32")
        for node in (last, total)
    ]
    for node in (count, last, shape, total):
        node.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    for node in casts:
        node.outputs[0].type = ir.TensorType(ir.DataType.INT32)
    nodes = [tag(node, MODULE) for node in (count, last, shape, total, *casts)]
    model.graph.insert_before(model.graph[0], nodes)
    return casts[0].outputs[0], casts[1].outputs[0]
