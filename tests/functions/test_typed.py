"""Activations of another type: the body in float32 on widened inputs, its result rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from resq_onnx.functions import (
    ACTIVATIONS,
    AttentionForm,
    Form,
    GatherForm,
    HadamardForm,
    MatMulForm,
    RecordLayout,
    RotaryForm,
    in_type,
)
from resq_onnx.recipe import BitSplit
from tests.functions.engines import feeds_of, model_of, session

Array = NDArray[Any]

DTYPES: Final = {
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}
"""By type in a graph, that of NumPy."""

ROWS: Final = 3
SPLIT: Final = BitSplit(12, 4)
HEADS: Final[dict[str, Any]] = {
    "num_heads": 4,
    "kv_num_heads": 2,
    "head_dim": 16,
    "rotary_dim": 16,
    "rotates_keys": False,
}
FORMS: Final[dict[str, tuple[Form, dict[str, float]]]] = {
    "product": (MatMulForm(SPLIT), {}),
    "product with everything": (
        MatMulForm(SPLIT, norm=True, bias=True, residual=True, low_clip=0.85),
        {"norm_epsilon": 1e-5},
    ),
    "attention": (AttentionForm(**HEADS, layout=RecordLayout(16, 4)), {}),
    "attention with a float cache": (RotaryForm(**HEADS), {}),
    "gate": (HadamardForm(SPLIT), {}),
    "gate without rotation": (HadamardForm(SPLIT, rotates=False), {}),
    "embedding": (GatherForm(BitSplit(0, 16)), {}),
}
"""By name, a form and what its node chooses."""


def arrays_of(form: Form) -> dict[str, Array]:
    """Numbers for the inputs that a form has; those of activations have many digits."""
    random, cached, groups, width = np.random.default_rng(0), 2, 2, 16
    records = form.layout.size if isinstance(form, AttentionForm) else width
    shapes = {
        "X": (ROWS, width), "residual": (ROWS, 8), "bias": (8,), "gate_up": (ROWS, 2 * width),
        "QKV": (1, ROWS, 8 * width), "W_low": (8, 12), "W_high": (8, form_high(form)),
        "S_low": (8,), "S_high": (8,), "low_outer": (3, 3), "low_inner": (4, 4),
        "high_outer": (1, 1), "high_inner": (4, 4), "cos_cache": (8, 8), "sin_cache": (8, 8),
        "past_key": (1, groups, cached, records), "past_value": (1, groups, cached, records),
    }  # fmt: skip
    fixed = {
        "attention_mask": np.ones((1, cached + ROWS), np.int64),
        "position_ids": np.arange(cached, cached + ROWS)[None],
        "indices": np.arange(ROWS),
    }
    arrays: dict[str, Array] = {}
    for parameter in form.inputs():
        if not parameter.present:
            continue
        name, kind = parameter.name, parameter.dtype.numpy()
        if name in fixed:
            arrays[name] = fixed[name]
        elif parameter.dtype == ir.DataType.UINT8:
            arrays[name] = np.zeros(shapes[name], np.uint8)
        elif parameter.dtype != ir.DataType.FLOAT:
            arrays[name] = random.integers(-8, 8, shapes[name]).astype(kind)
        else:
            arrays[name] = random.standard_normal(shapes[name]).astype(np.float32)
    return arrays


def form_high(form: Form) -> int:
    return form.split.high if isinstance(form, MatMulForm | GatherForm) else 0


def run(
    form: Form, arrays: Mapping[str, Array], chosen: dict[str, float], dtype: ir.DataType | None
) -> list[Array]:
    """The outputs in float32; with a dtype, of the node in that type between Casts."""
    model = model_of(form, arrays, chosen)
    if dtype is not None:
        _narrow(model, dtype)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    return list(session(proto).run(None, feeds_of(arrays)))


def _narrow(model: ir.Model, dtype: ir.DataType) -> None:
    """Let the model's node call its function in another type."""
    (node,) = model.graph
    function = model.functions.pop(node.op_identifier())
    typed = in_type(function, dtype)
    node.overload = typed.overload
    model.functions[typed.identifier()] = typed
    for place, value in enumerate(node.inputs):
        if value is not None and value.name in ACTIVATIONS:
            cast = ir.node("Cast", [value], {"to": dtype})
            model.graph.insert_before(node, cast)
            node.replace_input_with(place, cast.outputs[0])
    result = node.outputs[0]
    cast = ir.node("Cast", [result], {"to": ir.DataType.FLOAT})
    model.graph.append(cast)
    widened = cast.outputs[0]
    widened.name, widened.shape, widened.type = "Z", result.shape, ir.TensorType(ir.DataType.FLOAT)
    result.type = ir.TensorType(dtype)
    model.graph.outputs[0] = widened


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", FORMS)
def test_a_typed_operator_rounds_what_it_reads_and_what_it_gives_and_nothing_else(
    name: str, dtype: ir.DataType
) -> None:
    """The last bit of every output, caches too."""
    form, chosen = FORMS[name]
    arrays = arrays_of(form)
    rounded = {
        key: array.astype(DTYPES[dtype]).astype(np.float32) if key in ACTIVATIONS else array
        for key, array in arrays.items()
    }
    first, *caches = run(form, rounded, chosen, None)
    found, *kept = run(form, arrays, chosen, dtype)
    np.testing.assert_array_equal(found, first.astype(DTYPES[dtype]).astype(np.float32))
    assert not np.array_equal(found, first)
    for cache, expected in zip(kept, caches, strict=True):
        np.testing.assert_array_equal(cache, expected)


@pytest.mark.parametrize("name", FORMS)
def test_the_function_in_float32_stays_as_it_is(name: str) -> None:
    function = FORMS[name][0].function()
    before = ir.serde.serialize_function(function).SerializeToString()
    typed = in_type(function, ir.DataType.FLOAT16)
    assert ir.serde.serialize_function(function).SerializeToString() == before
    assert typed.overload == f"{function.overload}_float16"
    assert (typed.domain, typed.name) == (function.domain, function.name)


@pytest.mark.parametrize("name", FORMS)
def test_parameters_and_caches_keep_their_type(name: str) -> None:
    form = FORMS[name][0]
    typed = in_type(form.function(), ir.DataType.BFLOAT16)
    declared = zip((*typed.inputs, *typed.outputs), (*form.inputs(), *form.outputs()), strict=True)
    for value, parameter in declared:
        assert value.name == parameter.name
        narrow = parameter.name in ACTIVATIONS
        assert value.dtype == (ir.DataType.BFLOAT16 if narrow else parameter.dtype), value
