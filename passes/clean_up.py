"""Metadata, doc strings and unused values  →  nothing.

Stack traces, scopes, paths and producer notes are stripped. Unused nodes, functions, opset
imports and initializers are removed. Every value gets a name.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import common


def sweep() -> ir.passes.Sequential:
    """Remove everything unused. Module tags stay, because later passes need them."""
    return ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
    )


class CleanUp(ir.passes.InPlacePass):
    """Strip metadata and doc strings everywhere, then sweep."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:  # noqa: D102
        common.ClearMetadataAndDocStringPass()(model)
        sweep()(model)
        for value in _values(model):
            value.metadata_props.clear()
            value.doc_string = None
        common.NameFixPass()(model)
        return ir.passes.PassResult(model, modified=True)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """All values of the graph and of its functions, since onnx_ir's pass clears only nodes."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        yield from graph.inputs
        for node in graph:
            yield from node.outputs
    yield from model.graph.initializers.values()
