"""The matrix behind the norms that end a block: once in the file, in 16 bits, and exact enough."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import POST_BASIS
from resq_onnx.passes.halve_post_basis import HalvePostBasis
from tests.passes.cases import Case, changed, weights_of

MATRIX = f"{POST_BASIS}.matrix"


@pytest.mark.parametrize("activations", ["quantised", "float"])
def test_all_layers_read_one_matrix_in_16_bits_through_one_cast(
    cases: Callable[[str], Case], activations: str
) -> None:
    gemma = cases("gemma2 tied").with_recipe(activations=activations)
    matrix = gemma.after(HalvePostBasis).graph.initializers[MATRIX]
    assert matrix.dtype == ir.DataType.FLOAT16
    (cast,) = matrix.consumers()
    assert cast.op_type == "Cast"
    assert [node.op_type for node in cast.outputs[0].consumers()] == ["MatMul"] * 4


def test_families_without_such_norms_are_left_as_they_are(llama: Case) -> None:
    before, after = (
        weights_of(graph) for graph in (llama.before(HalvePostBasis), llama.after(HalvePostBasis))
    )
    assert not changed(before, after)
