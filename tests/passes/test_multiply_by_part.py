"""A Gemm for each part of a mixed-precision product: the same sums in another order."""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_ir as ir
import pytest

from resq_onnx.functions import MatMulForm
from resq_onnx.passes.multiply_by_part import MultiplyByPart
from resq_onnx.passes.spell_activations import SpellActivations
from tests.functions.engines import ENGINES, assert_close, empty_model, feeds_of, session
from tests.functions.test_mixed_precision_matmul import FORMS, TOLERANCE, arrays_for, tokens
from tests.passes.cases import Case, decoder_of, ops_of, with_weights_inside
from tests.passes.test_spell_activations import RUNTIMES, inlined

LOGIT_TOLERANCE = 1e-5
"""Of the largest logit. Float32 sums in another order come out 5e-7 apart; one integer that
rounding moves by one gives 1e-3 and more."""


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_product_keeps_its_sums(form: MatMulForm, runtime: str) -> None:
    arrays = arrays_for(form, tokens(7, form.split.width))
    before, after = inlined(form, arrays), inlined(form, arrays)
    for model in (before, after):
        SpellActivations()(model)
    MultiplyByPart()(after)
    parts = (form.split.low > 0) + (form.split.high > 0)
    assert Counter(ops_of(after))["Gemm"] == parts
    found, expected = (ENGINES[runtime](model, feeds_of(arrays))[0] for model in (after, before))
    assert_close(found, expected, TOLERANCE)


def test_a_model_keeps_its_logits(case: Case) -> None:
    parted = case.with_recipe(format="qdq")
    before, after = parted.before(MultiplyByPart), parted.after(MultiplyByPart)
    expected = decoder_of(before).run(case.token_ids)[0]
    assert_close(decoder_of(after).run(case.token_ids)[0], expected, LOGIT_TOLERANCE)


def test_each_weight_of_a_layer_is_read_by_a_product_of_its_own(case: Case) -> None:
    graph = case.with_recipe(format="qdq").after(MultiplyByPart)
    dequantised = [
        node
        for node in graph.graph
        if node.op_type == "DequantizeLinear"
        and any(value is not None and value.is_initializer() for value in node.inputs[:1])
    ]
    assert len(dequantised) == 2 * 4 * case.layout.num_layers + 1  # lm_head has one part
    for node in dequantised:
        (reader,) = node.outputs[0].consumers()
        assert reader.op_type == "Gemm"
    onnx.checker.check_model(ir.to_proto(with_weights_inside(graph)), full_check=True)


@pytest.mark.parametrize("folded", [False, True])
def test_onnxruntime_makes_no_integer_product_of_them(folded: bool) -> None:
    """It would quantise the activations a second time, or refuse their scales when run."""
    form = FORMS["both parts"]
    arrays = arrays_for(form, tokens(7, form.split.width))
    model = inlined(form, arrays)
    SpellActivations()(model)
    MultiplyByPart()(model)
    found = session(ir.to_proto(model), folded=folded).run(None, feeds_of(arrays))[0]
    unoptimised = session(ir.to_proto(model), optimised=False).run(None, feeds_of(arrays))[0]
    assert_close(found, unoptimised, TOLERANCE)


def test_a_product_of_what_is_no_weight_stays() -> None:
    model = empty_model()
    names = ("a", "b", "c", "d")
    values = [ir.val(name, ir.DataType.FLOAT, ["n", 4]) for name in names]
    model.graph.inputs.extend(values)
    joins = [ir.node("Concat", list(pair), {"axis": 1}) for pair in (values[:2], values[2:])]
    product = ir.node("Gemm", [join.outputs[0] for join in joins], {"transB": 1}, name="product")
    model.graph.extend([*joins, product])
    model.graph.outputs.append(product.outputs[0])
    assert not MultiplyByPart()(model).modified
    assert ops_of(model) == ["Concat", "Concat", "Gemm"]
    assert all(join.outputs[0].uses() for join in joins)
