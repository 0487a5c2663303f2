"""Find the residual stream in an exported graph of any format.

A layer adds to its input. A path can therefore bypass every value between a layer's two additions,
but not the sums: all information about the tokens passes through them to the logits. The sums are
among the nodes where all paths from `input_ids` to `logits` meet. The weights on those paths show
which of them ends a layer: a weight's name begins with that of its module, even after operators
have been inlined.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from typing import Final

import onnx

from resq_onnx.errors import ResqError

SOURCE: Final = "input_ids"
TARGET: Final = "logits"

LAYER: Final = re.compile(r"(?:.*\.)?layers\.(\d+)\.")
"""Prefix of the name of a layer's weight."""

SUMS: Final = {"SkipSimplifiedLayerNormalization": 3}
"""Operators that return a sum and its norm: the index of the sum among their outputs."""

SIZES_ONLY: Final = ("Shape", "Size")
"""Operators that read only the number of tokens."""


def residual_stream(graph: onnx.GraphProto, *, halves: bool = False) -> list[str]:
    """Names of the values that hold the residual stream: the embedding, and each layer's output.

    Args:
        graph: A graph with its nodes in topological order, as ONNX requires.
        halves: Whether to include the stream after each layer's attention, before the layer's
            output.

    Returns:
        Layers + 1 names, or with `halves` 2 · layers + 1. The values have (B, S, D) numbers, in
        this shape or as (B · S, D).

    Raises:
        ResqError: There are no weights named after layers, or no single value connects two layers:
            the graph is not a decoder that resq-onnx wrote.
    """
    path = _path(graph.node)
    meetings = _meetings(graph.node, path)
    layers = _layers(graph, path)
    if not layers or sorted(layers) != list(range(len(layers))):
        raise ResqError(
            "the graph has no weights named model.layers.0., model.layers.1. and so on, which tell "
            "where a layer ends; give a file that resq-onnx export wrote"
        )
    order = list(meetings)
    # The last meeting before the first layer, then the first one after each layer's weights.
    before = bisect.bisect_left(order, min(layers[0])) - 1
    places = [before, *(bisect.bisect_left(order, max(layers[i])) for i in range(len(layers)))]
    starts = [min(layers[i]) for i in range(len(layers))] + [len(graph.node)]
    for layer, (place, start) in enumerate(zip(places, starts, strict=True)):
        if not 0 <= place < len(order) or order[place] >= start:
            where = f"layer {layer - 1}" if layer else "the embedding"
            raise ResqError(
                f"the graph has no one value through which everything passes behind {where}; "
                f"give a file that resq-onnx export wrote"
            )
    if halves:  # no path goes around the sum behind an attention, and until there all do
        sums = [bisect.bisect_left(order, min(layers[i])) for i in range(len(layers))]
        pairs = zip(sums, places[1:], strict=True)
        places = [places[0], *(place for pair in pairs for place in pair)]
    return [meetings[order[place]] for place in places]


def _path(nodes: Sequence[onnx.NodeProto]) -> dict[str, int]:
    """Map each value between the tokens and the logits to the index of its node."""
    after = {SOURCE}
    for node in nodes:
        if node.op_type not in SIZES_ONLY and after.intersection(node.input):
            after.update(node.output)
    before = {TARGET}
    for node in reversed(nodes):
        if node.op_type not in SIZES_ONLY and before.intersection(node.output):
            before.update(node.input)
    both = (after & before) - {""}
    return {name: index for index, node in enumerate(nodes) for name in node.output if name in both}


def _meetings(nodes: Sequence[onnx.NodeProto], path: dict[str, int]) -> dict[int, str]:
    """Nodes that no path bypasses: map each index, in order, to the one value passed on.

    A path bypasses a node if a later node reads a value computed before it.
    """
    last_reader: dict[str, int] = {}
    made: dict[int, list[str]] = {}
    for name, index in path.items():
        made.setdefault(index, []).append(name)
    for index in made:
        last_reader.update(dict.fromkeys(nodes[index].input, index))
    found, furthest = {}, last_reader.get(SOURCE, 0)
    for index, names in made.items():
        place = SUMS.get(nodes[index].op_type)
        if furthest <= index and (len(names) == 1 or place is not None):
            found[index] = names[0] if place is None else nodes[index].output[place]
        furthest = max(furthest, *(last_reader.get(name, index) for name in names))
    return found


def _layers(graph: onnx.GraphProto, path: dict[str, int]) -> dict[int, list[int]]:
    """Map each layer to the nodes of the path that read its weights, directly or transformed."""
    made_of = {tensor.name: {tensor.name} for tensor in graph.initializer}
    readers: dict[int, list[int]] = {}
    on_path = set(path.values())
    for index, node in enumerate(graph.node):
        weights: set[str] = set().union(*(made_of.get(name, set()) for name in node.input))
        if index in on_path and node.op_type in SUMS:
            continue  # its gain is the next layer's, and its sum the end of this one
        if index in on_path:
            for match in filter(None, map(LAYER.match, weights)):
                readers.setdefault(int(match[1]), []).append(index)
        else:
            made_of.update(dict.fromkeys(node.output, weights))
    return readers
