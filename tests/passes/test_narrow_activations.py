"""The residual stream, and all else that a layer hands on, in FLOAT16 or BFLOAT16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from resq_onnx.passes.clean_up import CleanUp
from resq_onnx.passes.narrow_activations import DTYPES, NarrowActivations
from tests.functions.engines import assert_close
from tests.passes.cases import Case, decoder_of, with_weights_inside

TOLERANCE: Final = 0.05
"""Of the largest logit, with 8 bits everywhere. A coefficient that a rounding moves to the other
side of a step is one of 255 off, with either type; found are 0.01 to 0.03."""


def narrow(case: Case, dtype: str, **choices: Any) -> tuple[ir.Model, ir.Model]:
    """The graph before the pass, and after it without what nothing reads."""
    chosen = case.with_recipe(low_bits=8, dtype=dtype, **choices)
    chosen.traced, chosen.moments = case.traced, case.moments  # which no choice changes
    return chosen.before(NarrowActivations), chosen.after(CleanUp)


def ours(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.domain == "ai.resq"]


def casts(before: ir.Model, after: ir.Model) -> list[ir.Node]:
    """Those that the pass has added, in order."""
    known = {node.name for node in before.graph}
    added = [node for node in after.graph if node.name not in known]
    assert {node.op_type for node in added} == {"Cast"}
    return added


def maker_of(cast: ir.Node) -> str:
    """The operator whose result is cast."""
    (value,) = cast.inputs
    node = None if value is None else value.producer()
    return "" if node is None else node.op_type


def target(cast: ir.Node) -> int:
    return cast.attributes.get_int("to")


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_that_a_layer_hands_on_has_the_type_and_nothing_else_has(
    case: Case, dtype: str
) -> None:
    before, model = narrow(case, dtype)
    for node in ours(model):
        is_head = node.outputs[0].name == "logits"
        assert node.overload.endswith(f"_{dtype}") != is_head
        assert node.outputs[0].dtype == (ir.DataType.FLOAT if is_head else DTYPES[dtype])
        for value in node.outputs[1:]:
            assert value.dtype == ir.DataType.UINT8
    for name, value in model.graph.initializers.items():
        assert value.dtype == before.graph.initializers[name].dtype


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_cast_leads_to_the_head(case: Case, dtype: str) -> None:
    (cast,) = casts(*narrow(case, dtype))
    assert target(cast) == ir.DataType.FLOAT
    (reader,) = cast.outputs[0].consumers()
    assert reader.op_type == ("RMSNormalization" if case.shares_table else "MixedPrecisionMatMul")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_logits_are_near_those_in_float32(case: Case, dtype: str) -> None:
    expected, found = (decoder_of(one).run(case.token_ids)[0] for one in narrow(case, dtype))
    assert_close(found, expected, TOLERANCE)
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_token_whose_logits_are_asked_for_is_cast(llama: Case, dtype: str) -> None:
    before, model = narrow(llama, dtype, logits="last")
    (cast,) = casts(before, model)
    (choice,) = [node for node in model.graph if node.op_type == "GatherND"]
    assert cast.inputs[0] is choice.outputs[0]
    assert choice.outputs[0].dtype == DTYPES[dtype]
    every, _ = decoder_of(narrow(llama, dtype)[1]).run(llama.token_ids)
    found, _ = decoder_of(model).run(llama.token_ids)
    np.testing.assert_array_equal(found[:, 0], every[:, -1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_another_operator_computes_is_computed_in_float32(
    cases: Callable[[str], Case], dtype: str
) -> None:
    """Gemma scales its embedding, turns what its layers read, and normalises what they write."""
    gemma = cases("gemma2 tied")
    before, model = narrow(gemma, dtype)
    embedding, *others = casts(before, model)
    (scale,) = embedding.outputs[0].consumers()
    assert (target(embedding), scale.op_type) == (ir.DataType.FLOAT, "Mul")
    turned, written = others[::2], others[1::2]
    assert len(turned) == len(written) == 2 * gemma.layout.num_layers
    for cast in turned:  # what a layer reads, behind the change of basis
        assert (target(cast), maker_of(cast)) == (DTYPES[dtype], "MatMul")
        assert [node.domain for node in cast.outputs[0].consumers()] == ["ai.resq"]
    for cast in written:  # what o_proj and down_proj give to the norm that ends their block
        assert (target(cast), maker_of(cast)) == (ir.DataType.FLOAT, "MixedPrecisionMatMul")
        assert [node.op_type for node in cast.outputs[0].consumers()] == ["RMSNormalization"]
    expected, found = (decoder_of(one).run(gemma.token_ids)[0] for one in (before, model))
    assert_close(found, expected, TOLERANCE)


def test_a_float_cache_stays_one(llama: Case) -> None:
    _, model = narrow(llama, "float16", cache="float")
    (attention, *_) = [node for node in ours(model) if node.op_type == "RotaryAttention"]
    types = [value.dtype for value in attention.outputs]
    assert types == [ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.FLOAT]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_checker_accepts_the_graph_and_its_types(biased: Case, dtype: str) -> None:
    model = with_weights_inside(narrow(biased, dtype)[1])
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_in_float32_there_is_no_such_pass(llama: Case) -> None:
    assert NarrowActivations not in map(type, llama.passes())
