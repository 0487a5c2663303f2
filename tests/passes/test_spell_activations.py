"""Activations are quantised by arithmetic: the same numbers, to the last bit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import InlinePass

from resq_onnx.functions import MatMulForm
from resq_onnx.passes.spell_activations import SpellActivations
from resq_onnx.runtime.decoder import DecoderState
from tests.functions.engines import ENGINES, Array, empty_model, feeds_of, model_of
from tests.functions.test_mixed_precision_matmul import EPSILON, FORMS, arrays_for, tokens
from tests.passes.cases import Case, decoder_of, ops_of

RUNTIMES = ("onnxruntime", "onnxruntime unoptimised", "onnxruntime folded", "reference")

SPELLED = ("Div", "Round", "Add", "Clip", "Sub", "Mul")


def inlined(form: MatMulForm, arrays: dict[str, Array]) -> ir.Model:
    model = model_of(form, arrays, {"norm_epsilon": EPSILON} if form.norm else {})
    InlinePass()(model)
    return model


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_product_keeps_its_numbers(form: MatMulForm, runtime: str) -> None:
    """Also of rows of zeros, of one value, of tiny and of huge ones.

    No tolerance: each step is one that the definition of the two operators names.
    """
    rows = tokens(7, form.split.width)
    rows[1], rows[2] = 0.0, -0.25
    rows[3:5] *= np.array([[1e-39], [1e15]], np.float32)
    arrays = arrays_for(form, rows)
    before, after = inlined(form, arrays), inlined(form, arrays)
    SpellActivations()(after)
    assert not {"QuantizeLinear", "Cast"} & set(ops_of(after))
    found, expected = (ENGINES[runtime](model, feeds_of(arrays))[0] for model in (after, before))
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(found, expected)


def test_a_model_keeps_its_logits_and_its_cache(case: Case) -> None:
    spelled = case.with_recipe(format="qdq")
    before, after = (
        decoder_of(graph)
        for graph in (spelled.before(SpellActivations), spelled.after(SpellActivations))
    )
    states: list[DecoderState | None] = [None, None]
    for start, end in ((0, 5), (5, 6), (6, 8)):
        results = []
        for index, decoder in enumerate((before, after)):
            logits, state = decoder.run(case.token_ids[:, start:end], states[index])
            states[index] = state
            results.append([logits, *state.caches])
        for expected, found in zip(*results, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_weights_are_dequantised_as_before(llama: Case) -> None:
    spelled = llama.with_recipe(format="qdq")
    before, after = (
        Counter(ops_of(graph))
        for graph in (spelled.before(SpellActivations), spelled.after(SpellActivations))
    )
    pairs = before["QuantizeLinear"]
    assert pairs == 2 * 4 * llama.layout.num_layers + 1  # lm_head has one part
    assert after["QuantizeLinear"] == 0
    assert before["DequantizeLinear"] - after["DequantizeLinear"] == pairs
    assert {op: after[op] - before[op] for op in SPELLED} == dict.fromkeys(SPELLED, pairs)
    kept = [n for n in spelled.after(SpellActivations).graph if n.op_type == "DequantizeLinear"]
    producers = [value.producer() for node in kept for value in node.inputs[:1] if value]
    assert [producer.op_type for producer in producers if producer] == ["Gather"]


def test_a_zero_point_of_another_make_is_refused() -> None:
    model = empty_model()
    x, scale = (ir.val(name, ir.DataType.FLOAT, ["n", size]) for name, size in (("x", 4), ("s", 1)))
    zero = ir.val("z", ir.DataType.UINT8, ["n", 1])
    model.graph.inputs.extend([x, scale, zero])
    block = {"axis": 1, "block_size": 4}
    quantise = ir.node("QuantizeLinear", [x, scale, zero], block, name="quantise")
    back = ir.node("DequantizeLinear", [quantise.outputs[0], scale, zero], block)
    model.graph.extend([quantise, back])
    with pytest.raises(ValueError, match="quantise: its zero point is not a Cast"):
        SpellActivations()(model)
