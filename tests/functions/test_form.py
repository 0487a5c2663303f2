"""Forms as functions of a model: overloads, registration, checking, inlining, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx_ir.passes.common import InlinePass

import resq_onnx.functions
from resq_onnx.functions import (
    DOMAIN,
    OPSET,
    AttentionForm,
    Form,
    HadamardForm,
    MatMulForm,
    RecordLayout,
    RotaryForm,
    add_call,
)
from resq_onnx.recipe import BitSplit
from tests.functions.engines import IR_VERSION, add_node, empty_model, session
from tests.functions.test_mixed_precision_matmul import arrays_for, tokens

LAYERS = 30
PLAIN = MatMulForm(BitSplit(12, 4))
NORMED = MatMulForm(BitSplit(12, 4), norm=True)
HEADS: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2, "head_dim": 16, "rotary_dim": 16}
ALL_FORMS: list[Form] = [
    PLAIN,
    NORMED,
    MatMulForm(BitSplit(0, 16), residual=True),
    MatMulForm(BitSplit(12, 4), groups=2, bias=True),
    AttentionForm(**HEADS, layout=RecordLayout(16, 4)),
    AttentionForm(**HEADS, layout=RecordLayout(16, 0), window=4, rotates_keys=False),
    RotaryForm(**HEADS, qk_norm=True),
    RotaryForm(**HEADS, position_ids=False),
    RotaryForm(**HEADS, caps_scores=True),
    HadamardForm(BitSplit(12, 4)),
    HadamardForm(BitSplit(12, 4), rotates=False),
]


def two_overloads() -> ir.Model:
    """One model with two forms of one operator, on inputs of their own."""
    model = empty_model()
    arrays = arrays_for(PLAIN, tokens(3, 16))
    add_node(model, PLAIN, arrays, prefix="plain_")
    add_node(model, NORMED, arrays, {"norm_epsilon": 1e-5}, prefix="normed_")
    return model


def test_two_overloads_of_one_operator_each_run_their_own_body() -> None:
    model = two_overloads()
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert {f.overload for f in proto.functions} == {PLAIN.overload, NORMED.overload}
    x = tokens(3, 16)
    feeds = {"plain_X": x, "normed_X": x}
    plain, normed = session(proto).run(None, feeds)
    inverse_rms = 1 / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(normed, plain * inverse_rms, rtol=1e-5, atol=1e-6)

    by_onnx = session(onnx.inliner.inline_local_functions(proto)).run(None, feeds)
    InlinePass()(model)
    assert all(node.domain == "" for node in model.graph)
    by_onnx_ir = session(ir.to_proto(model)).run(None, feeds)
    for inlined in (by_onnx, by_onnx_ir):
        np.testing.assert_array_equal(inlined[0], plain)
        np.testing.assert_array_equal(inlined[1], normed)


@pytest.mark.parametrize("form", ALL_FORMS, ids=lambda form: f"{form.op_type}-{form.overload}")
def test_a_form_is_a_valid_function_of_standard_operators(form: Form) -> None:
    function = form.function()
    assert function.identifier() == (DOMAIN, form.op_type, form.overload)
    assert [value.name for value in function.inputs] == [i.name for i in form.inputs()]
    assert [value.name for value in function.outputs] == [o.name for o in form.outputs()]
    for node in function:
        assert onnx.defs.get_schema(node.op_type, OPSET, node.domain) is not None
        assert not node.metadata_props
    for parameter, value in zip(form.inputs(), function.inputs, strict=True):
        assert bool(value.uses()) == parameter.present, parameter.name


def test_forms_that_differ_have_names_that_differ() -> None:
    identifiers = {(form.op_type, form.overload) for form in ALL_FORMS}
    assert len(identifiers) == len(ALL_FORMS)


def test_layers_of_one_form_share_one_function_and_a_saved_model_loads(tmp_path: Path) -> None:
    model = empty_model()
    width = PLAIN.split.width
    form = MatMulForm(PLAIN.split, residual=True)
    x = ir.Value(name="X", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["T", width]))
    model.graph.inputs.append(x)
    weights: list[ir.Value | None] = []
    rng = np.random.default_rng(0)
    for name, array in {
        "W_low": rng.integers(-8, 8, (width, 12)).astype(ir.DataType.INT4.numpy()),
        "S_low": np.full(width, 0.01, np.float32),
        "W_high": rng.integers(-128, 128, (width, 4)).astype(np.int8),
        "S_high": np.full(width, 0.001, np.float32),
    }.items():
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        model.graph.register_initializer(value)
        weights.append(value)
    hidden = x
    for layer in range(LAYERS):
        node = add_call(
            model, form, [hidden, *weights, None, hidden], {}, f"n{layer}", [f"h{layer}"]
        )
        model.graph.append(node)
        hidden = node.outputs[0]
    model.graph.outputs.append(hidden)
    assert len(model.functions) == 1
    assert model.opset_imports == {"": OPSET, DOMAIN: 1}

    path = tmp_path / "model.onnx"
    ir.save(model, path, external_data="model.onnx.data")
    saved = onnx.load(path, load_external_data=False)
    assert saved.ir_version == IR_VERSION
    assert saved.graph.initializer[0].data_type == onnx.TensorProto.INT4
    loaded = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = loaded.run(None, {"X": tokens(2, width)})
    assert np.all(np.isfinite(y))
    assert y.shape == (2, width)


def test_a_node_carries_what_its_form_settles_and_what_it_chooses() -> None:
    model = empty_model()
    form = AttentionForm(**HEADS, qk_norm=True, layout=RecordLayout(16, 4))
    values = [ir.Value(name=i.name) if i.present else None for i in form.inputs()]
    node = add_call(model, form, values, {"norm_epsilon": 1e-6}, "n", ["y", "k", "v"])
    assert {name: attribute.value for name, attribute in node.attributes.items()} == {
        "num_heads": 4,
        "kv_num_heads": 2,
        "rotary_dim": 16,
        "local_window": -1,
        "high_rank": 4,
        "low_bits": 4,
        "scale": 0.25,
        "norm_epsilon": 1e-6,
    }
    assert node.outputs[1].dtype == ir.DataType.UINT8


@pytest.mark.parametrize(
    ("form", "present", "attributes", "outputs", "message"),
    [
        (PLAIN, 4, {}, ["y"], "S_high is missing"),
        (PLAIN, 6, {}, ["y"], "bias is given"),
        (PLAIN, 8, {}, ["y"], "at most 7"),
        (PLAIN, 5, {"norm_epsilon": 1e-5}, ["y"], r"unknown attributes: \['norm_epsilon'\]"),
        (NORMED, 5, {}, ["y"], r"missing: \['norm_epsilon'\]"),
        (PLAIN, 5, {}, ["y", "z"], "2 outputs, expected 1"),
    ],
)
def test_a_call_that_does_not_fit_its_form_is_refused(
    form: Form, present: int, attributes: dict[str, float], outputs: list[str], message: str
) -> None:
    model = empty_model()
    values = [ir.Value(name=f"v{i}") for i in range(present)]
    with pytest.raises(ValueError, match=message):
        add_call(model, form, values, attributes, "n", outputs)
    assert not model.functions


def test_the_public_names_are_these() -> None:
    assert sorted(resq_onnx.functions.__all__) == [
        "ACTIVATIONS",
        "AttentionForm",
        "DOMAIN",
        "Form",
        "GatherForm",
        "HadamardForm",
        "MatMulForm",
        "OPSET",
        "Parameter",
        "RecordLayout",
        "RotaryForm",
        "SMALLEST_SCALE",
        "VERSION",
        "add_call",
        "in_type",
    ]
