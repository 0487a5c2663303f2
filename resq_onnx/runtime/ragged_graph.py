"""Open an exported model for texts of unequal lengths in one call.

An exported graph counts old tokens once for all texts of a call. Here its attention nodes get two
more inputs, which are new inputs of the graph as well:

    cached int64 (B,)       tokens that each text has cached before the call
    cache_rows int64 (B,)   row of each text in the caches; parts of one text may share it

The caches must be one buffer, bound both as past and as present, and attention_mask has a column
for each token of the longest text. A third new input says which tokens need logits, because nothing
is predicted from most of a prompt:

    predicted int64 (K,)    places of these tokens in input_ids; logits are (B, K, vocabulary)

A graph that computes the logits of the last token alone (`--logits last`) has no such input. No
file is written: ONNX Runtime receives the graph from memory, and reads the weights from their
original file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx
from onnx import TensorProto, helper

from resq_onnx.errors import ResqError
from resq_onnx.graph.names import DOMAIN, RECIPE_KEY, cache_names
from resq_onnx.runtime.protos import read_proto
from resq_onnx.runtime.session import create_session
from resq_onnx.runtime.signature import is_indifferent_to_steps

if TYPE_CHECKING:
    import onnxruntime

ATTENTION: Final = "MixedPrecisionAttention"

EARLIER_INPUTS: Final = 10
"""Inputs of an attention node before these two."""

HEADS: Final = ("MatMul", "MixedPrecisionMatMul")
"""Operators that compute logits from the last residual stream."""

SELECTED: Final = "resq_predicted"
"""Prefix of the names of what selects tokens."""

PREDICTED: Final = "predicted"
CACHED: Final = "cached"
CACHE_ROWS: Final = "cache_rows"


def ragged_session(
    path: str | Path, threads: int | None = None
) -> onnxruntime.InferenceSession | None:
    """Open a model with the two inputs; its kernels run on the CPU.

    Args:
        path: The .onnx file.
        threads: As for `create_session`.

    Returns:
        The session; None if the results of this model depend on what else is in a call, as those
        of other formats do.

    Raises:
        ResqError: The file cannot be read or run.
    """
    model = read_proto(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if not is_indifferent_to_steps(metadata.get(RECIPE_KEY)):
        return None
    nodes = [n for n in model.graph.node if (n.domain, n.op_type) == (DOMAIN, ATTENTION)]
    if not nodes:
        raise ResqError(f"{path}: has no {ATTENTION}, though its recipe says so; export it again")
    for node in nodes:
        node.input.extend([""] * (EARLIER_INPUTS - len(node.input)))
        node.input.extend([CACHED, CACHE_ROWS])
    for name in (CACHED, CACHE_ROWS):
        value = helper.make_tensor_value_info(name, TensorProto.INT64, ["batch"])
        model.graph.input.append(value)
    _rename_rows(model.graph, len(nodes))
    _select_predicted(model.graph)
    _drop_function(model)
    return create_session(path, threads, graph=model.SerializeToString())


def _rename_rows(graph: onnx.GraphProto, layers: int) -> None:
    """Say that the first dimension of a cache is not that of the batch."""
    past, present = cache_names(layers)
    for value in (*graph.input, *graph.output):
        if value.name in past or value.name in present:
            dims = value.type.tensor_type.shape.dim
            if dims:
                dims[0].dim_param = "rows"


def _select_predicted(graph: onnx.GraphProto) -> None:
    """Select tokens before the matrix product of the logits, where it is found."""
    (logits,) = (value for value in graph.output if value.name == "logits")
    count = logits.type.tensor_type.shape.dim[1]
    makers = {name: node for node in graph.node for name in node.output}
    name = "logits"
    while name in makers and makers[name].op_type not in HEADS:
        name = makers[name].input[0] if makers[name].input else ""
    if name not in makers or count.dim_value == 1:
        return
    head = makers[name]
    graph.input.append(helper.make_tensor_value_info(PREDICTED, TensorProto.INT64, [PREDICTED]))
    stream = [head.input[0], PREDICTED]  # (B, S, D), (K,)
    chosen = helper.make_node("Gather", stream, [SELECTED], f"{SELECTED}_node", axis=1)
    graph.node.insert(list(graph.node).index(head), chosen)
    head.input[0] = chosen.output[0]
    count.Clear()
    count.dim_param = PREDICTED
    del graph.value_info[:]  # some shapes behind the selection are others now


def _drop_function(model: onnx.ModelProto) -> None:
    """Remove the operator's definition, which lacks the two inputs: the kernel executes it."""
    kept = [f for f in model.functions if (f.domain, f.name) != (DOMAIN, ATTENTION)]
    del model.functions[:]
    model.functions.extend(kept)
