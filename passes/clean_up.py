"""What the exporting machine left behind  →  nothing.

Stack traces, scopes, paths and producer notes are stripped; unused nodes, functions, opset
imports and initializers go; every value has a name.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


def sweep() -> ir.passes.Sequential:
    """Remove what nothing reads; tags stay, so that further passes find their modules."""
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
        common.NameFixPass()(model)
        return ir.passes.PassResult(model, modified=True)
