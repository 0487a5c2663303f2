"""U_A where it runs: once in the file, in 16 bits."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from resq_onnx.graph.modules import INPUT_BASIS
from resq_onnx.passes.halve_input_basis import HalveInputBasis
from tests.passes.cases import Case, changed, weights_of


@pytest.mark.parametrize("activations", ["quantised", "float"])
def test_all_layers_read_one_matrix_in_16_bits_through_one_cast(
    cases: Callable[[str], Case], activations: str
) -> None:
    gemma = cases("gemma2 tied").with_recipe(activations=activations)
    matrix = gemma.after(HalveInputBasis).graph.initializers[f"{INPUT_BASIS}.matrix"]
    assert matrix.dtype == ir.DataType.FLOAT16
    (cast,) = matrix.consumers()
    assert cast.op_type == "Cast"
    assert [node.op_type for node in cast.outputs[0].consumers()] == ["MatMul"] * 4


def test_families_with_a_basis_of_the_stream_are_left_as_they_are(llama: Case) -> None:
    before, after = (
        weights_of(graph) for graph in (llama.before(HalveInputBasis), llama.after(HalveInputBasis))
    )
    assert not changed(before, after)
