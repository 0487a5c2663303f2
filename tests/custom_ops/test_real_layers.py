"""Kernels on what real layers are given: each node of a real model alone.

The model runs by its function bodies, and every node then runs by its kernel on what its body was
given. So nothing adds up over the layers, and real activations, a few of which are a
thousand times larger than the others, show how many integers flip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from resq_onnx.functions import DOMAIN
from tests.custom_ops.attention_cases import FLIPPED
from tests.custom_ops.kernels import Node, open_session
from tests.custom_ops.texts import text_ids
from tests.smollm2 import Exported

Array = NDArray[Any]

pytestmark = pytest.mark.slow

LAYERS: Final = 30
TOKENS: Final = 128

TOLERANCE: Final = 3e-6
"""Of the largest result of a row: float32 sums of up to 1,536 terms in another order. One number
of a row that is quantised to a neighbour moves results by 1e-4 or more."""

SOFTMAX_TOLERANCE: Final = 6e-4
"""The same of attention, whose queries and weights have 16 bits: 2.5e-4 was seen."""

NODES: Final = {
    "MixedPrecisionMatMul": 4 * LAYERS + 1,
    "GatedHadamard": LAYERS,
    "MixedPrecisionAttention": LAYERS,
}

INPUTS: Final = {
    "MixedPrecisionMatMul": ("X", "W_low", "S_low", "W_high", "S_high", "bias", "residual"),
    "GatedHadamard": ("gate_up", "low_outer", "low_inner", "high_outer", "high_inner"),
    "MixedPrecisionAttention": (
        *("QKV", "past_key", "past_value", "attention_mask", "position_ids"),
        *("cos_cache", "sin_cache", "key_projection", "q_norm", "k_norm"),
    ),
}
OUTPUTS: Final = {"MixedPrecisionAttention": ("Y", "present_key", "present_value")}


@dataclass(frozen=True)
class Recorded:
    """A node with what it was given, and what its body made of it."""

    node: Node
    outputs: list[Array]


@pytest.fixture(scope="module")
def recorded(smollm2_exported: Exported) -> list[Recorded]:
    """All nodes of SmolLM2 that have a kernel."""
    model = onnx.load(smollm2_exported.out)
    nodes = [n for n in model.graph.node if n.domain == DOMAIN and n.op_type in NODES]
    constants = {i.name: i for i in model.graph.initializer}
    arrays = feeds(model, text_ids(smollm2_exported.out, 1, TOKENS))
    names = {n for node in nodes for n in (*node.input, *node.output) if n}
    wanted = sorted(names - constants.keys() - arrays.keys())
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted if n not in known)
    session = open_session(model.SerializeToString(), kernels=False)
    arrays |= dict(zip(wanted, session.run(wanted, arrays), strict=True))
    arrays |= {name: numpy_helper.to_array(constants[name]) for name in names & constants.keys()}
    return [record(node, arrays) for node in nodes]


def feeds(model: onnx.ModelProto, ids: NDArray[np.int64]) -> dict[str, Array]:
    """Inputs of the model for a first call."""
    arrays: dict[str, Array] = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(ids.shape[1])[None],
    }
    for entry in model.graph.input:
        if entry.name not in arrays:
            _, heads, _, record = (dim.dim_value for dim in entry.type.tensor_type.shape.dim)
            arrays[entry.name] = np.zeros((1, heads, 0, record), np.uint8)
    return arrays


def record(node: onnx.NodeProto, arrays: dict[str, Array]) -> Recorded:
    """The node alone."""
    names = INPUTS[node.op_type]
    given = {name: arrays[n] for name, n in zip(names, node.input, strict=False) if n}
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    outputs = OUTPUTS.get(node.op_type, ("Y",))
    alone = Node(node.op_type, names, outputs, given, attributes, name=node.name)
    return Recorded(alone, [arrays[name] for name in node.output])


def of(recorded: list[Recorded], operator: str) -> list[Recorded]:
    """The nodes of an operator."""
    found = [one for one in recorded if one.node.op_type == operator]
    assert len(found) == NODES[operator]
    return found


def error(y: Array, wanted: Array) -> float:
    """Largest difference over the largest magnitude of its row."""
    return float(np.max(np.abs(y - wanted) / np.abs(wanted).max(axis=-1, keepdims=True)))


@pytest.mark.parametrize("operator", ["MixedPrecisionMatMul", "GatedHadamard"])
def test_every_node_gives_what_its_body_gives(recorded: list[Recorded], operator: str) -> None:
    nodes = of(recorded, operator)
    errors = {one.node.name: error(one.node.run(threads=2)[0], one.outputs[0]) for one in nodes}
    worst = max(errors, key=errors.__getitem__)
    print(f"furthest off is {worst}, by {errors[worst]:.1e}")
    assert errors[worst] <= TOLERANCE


def test_attention_writes_and_reads_what_its_body_does(recorded: list[Recorded]) -> None:
    flipped, total, worst = 0, 0, 0.0
    for one in of(recorded, "MixedPrecisionAttention"):
        y, key, value = one.node.run(threads=2)
        wanted, wanted_key, wanted_value = one.outputs
        np.testing.assert_array_equal(value, wanted_value)
        flips = int(np.sum(key != wanted_key))
        flipped, total = flipped + flips, total + key.size
        if not flips:
            worst = max(worst, error(y, wanted))
    print(f"furthest off by {worst:.1e}")
    print(f"{flipped} of {total} bytes of keys differ: {1e6 * flipped / total:.0f} in a million")
    assert worst <= SOFTMAX_TOLERANCE
    assert flipped <= FLIPPED * total
