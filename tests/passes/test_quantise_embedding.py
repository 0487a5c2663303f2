"""Embedding and lm_head in eight bits, or in four and eight, in one table or in two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import InlinePass

from resq_onnx.graph.modules import nodes_of, only_node
from resq_onnx.passes import quantise_embedding
from resq_onnx.passes.clean_up import CleanUp, sweep
from resq_onnx.passes.quantise_embedding import QuantiseEmbedding
from resq_onnx.passes.quantise_linears import QuantiseLinears
from resq_onnx.recipe import BitSplit
from resq_onnx.runtime import Decoder
from resq_onnx.runtime.decoder import decode_logits
from resq_onnx.weights.quantised import QuantisedMatrix
from resq_onnx.weights.rtn import round_to_nearest
from tests.functions.engines import assert_close
from tests.passes.cases import CASES, Array, Case, decoder_of, ops_of, session_of, weight_of

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"

SPLITS: Final = {8: BitSplit(0, 64), 4: BitSplit(56, 8)}
"""By head_bits, how the columns of a tiny model's tables are divided."""

HALF_A_STEP: Final = 0.5 + 1e-5
"""Of a row's scale: nearest rounding in float64, and a scale and product in float32."""

LOGIT_TOLERANCE: Final = {8: 0.03, 4: 0.3}
"""Of the largest logit, with embedding and lm_head alone quantised, by head_bits."""

HALF_PRECISION: Final = 1e-3
"""Of the largest logit: the matrix before a head that shares its table has 11 bits."""

FLOAT_SUMS: Final = 1e-5
"""Of the largest result: float32 sums in another order."""


@pytest.fixture(
    scope="module",
    params=[(name, tables, bits) for name in [*CASES] for tables in ("shared", "separate")
            for bits in SPLITS if CASES[name][1] or tables == "shared"],
    ids=lambda given: ", ".join(map(str, given)),
)  # fmt: skip
def case(cases: Callable[[str], Case], request: pytest.FixtureRequest) -> Case:
    """Every model, with tables of both kinds."""
    name, tables, bits = request.param
    return cases(name).with_recipe(tables=tables, head_bits=bits)


def alone(case: Case, graph: ir.Model | None = None, **choices: Any) -> ir.Model:
    """The folded float graph with nothing else quantised."""
    graph = graph or case.before(QuantiseLinears)
    recipe = case.with_recipe(**choices).recipe
    QuantiseEmbedding(case.layout, recipe, shares_table=case.shares_table)(graph)
    sweep()(graph)
    return graph


def split_of(case: Case) -> BitSplit:
    return SPLITS[case.recipe.head_bits]


def tables_of(case: Case) -> list[str]:
    """The modules of which the file has a table."""
    return [EMBEDDING] if case.shares_table else [EMBEDDING, HEAD]


def parts_of(graph: ir.Model, module: str) -> dict[str, Array]:
    """The stored parts of a table, by name, those of width 0 left out."""
    names = ("weight_low", "scale_low", "weight_high", "scale_high")
    found = {name: f"{module}.{name}" for name in names}
    return {
        name: weight_of(graph, full)
        for name, full in found.items()
        if full in graph.graph.initializers
    }


def dequantised(graph: ir.Model, module: str) -> Array:
    parts = parts_of(graph, module)
    columns = [
        parts[f"weight_{part}"] * parts[f"scale_{part}"][:, None]
        for part in ("low", "high")
        if f"weight_{part}" in parts
    ]
    return np.concatenate(columns, axis=1)


def test_the_integers_stand_for_the_folded_rows(case: Case) -> None:
    split = split_of(case)
    for module in tables_of(case):
        before = weight_of(case.before(QuantiseEmbedding), f"{module}.weight")
        parts = parts_of(case.after(QuantiseEmbedding), module)
        for name, columns, limit in (
            ("low", before[:, : split.low], 7),
            ("high", before[:, split.low :], 127),
        ):
            if not columns.shape[1]:
                assert f"weight_{name}" not in parts
                continue
            integers, scales = parts[f"weight_{name}"], parts[f"scale_{name}"]
            inside = np.abs(integers) < limit  # what lies outside the range was clipped
            error = np.abs(integers * scales[:, None] - columns)
            assert (error <= HALF_A_STEP * scales[:, None])[inside].all()
            assert inside.mean() > 0.8
            assert np.abs(integers).max(axis=1).min() > 0.7 * limit  # the range is used


def test_a_stored_table_is_rounded_some_rows_at_a_time_to_the_same_integers(
    cases: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    gemma, rows = cases("gemma2 tied"), 7
    weight = weight_of(gemma.before(QuantiseEmbedding), f"{EMBEDDING}.weight")
    expected, sizes = round_to_nearest(weight, SPLITS[8]), []

    def counted(weight: Array, split: BitSplit) -> QuantisedMatrix:
        sizes.append(len(weight))
        return round_to_nearest(weight, split)

    monkeypatch.setattr(quantise_embedding, "round_to_nearest", counted)
    monkeypatch.setattr(quantise_embedding, "ROWS_AT_A_TIME", rows)
    found = parts_of(alone(gemma), EMBEDDING)
    np.testing.assert_array_equal(found["weight_high"], expected.high)
    np.testing.assert_array_equal(found["scale_high"], expected.high_scale)
    assert max(sizes) == rows
    assert sum(sizes) == len(weight)


def test_the_file_has_the_types_and_sizes_it_should(case: Case) -> None:
    graph, rows = case.after(CleanUp).graph, case.layout.vocab_size
    split = split_of(case)
    expected: dict[str, Any] = {}
    for module in tables_of(case):
        expected |= {
            f"{module}.weight_high": (ir.DataType.INT8, (rows, split.high)),
            f"{module}.scale_high": (ir.DataType.FLOAT, (rows,)),
        }
        if split.low:
            expected |= {
                f"{module}.weight_low": (ir.DataType.INT4, (rows, split.low)),
                f"{module}.scale_low": (ir.DataType.FLOAT, (rows,)),
            }
    if split.low:
        expected[f"{EMBEDDING}.packed_low"] = (ir.DataType.UINT8, (rows, split.low // 2))
    if case.shares_table:
        width = case.layout.hidden_size
        expected["lm_head.input.matrix"] = (ir.DataType.FLOAT16, (width, width))
    found = {
        name: (value.dtype, tuple(value.shape or ()))
        for name, value in graph.initializers.items()
        if name.startswith((EMBEDDING, HEAD))
    }
    if split.low and not case.shares_table:
        del expected[f"{EMBEDDING}.weight_low"]  # the Gather reads its bytes
    assert found == expected


def test_a_shared_table_is_read_by_both_and_two_by_one_each(case: Case) -> None:
    graph = case.after(QuantiseEmbedding)
    gather = only_node(graph, EMBEDDING, "MixedPrecisionGather")
    multiply = only_node(graph, HEAD, "MixedPrecisionMatMul")
    # The low integers may be the same bytes of two types; all others are the same values.
    pairs = zip(gather.inputs[2:5], multiply.inputs[2:5], strict=True)
    given = [(first, second) for first, second in pairs if first is not None]
    assert len(given) == (3 if split_of(case).low else 2)
    assert all((first is second) == case.shares_table for first, second in given)
    packed, integers = gather.inputs[1], multiply.inputs[1]
    if packed is not None and case.shares_table:
        assert packed.const_value is not None
        assert integers is not None
        assert integers.const_value is not None
        assert packed.const_value.tobytes() == integers.const_value.tobytes()


def test_the_embedding_gives_the_rows_its_integers_stand_for(case: Case) -> None:
    graph, rows = alone(case), dequantised(case.after(QuantiseEmbedding), EMBEDDING)
    result = only_node(graph, EMBEDDING, "MixedPrecisionGather").outputs[0]
    graph.graph.outputs[:] = [result]
    sweep()(graph)
    inputs = [value for value in graph.graph.inputs if value.name == "input_ids"]
    graph.graph.inputs[:] = inputs
    for ids in (case.token_ids, case.token_ids[:, :1]):
        (found,) = session_of(graph).run(None, {"input_ids": ids})
        assert_close(found, rows[ids], FLOAT_SUMS)


def test_the_logits_stay_near_the_float_ones_on_every_size(case: Case) -> None:
    decoder = decoder_of(alone(case))
    for ids in (case.token_ids, case.token_ids[:1], case.token_ids[:, :1]):
        expected, _ = case.run_torch(input_ids=ids)
        assert_close(decoder.run(ids)[0], expected, LOGIT_TOLERANCE[case.recipe.head_bits])


def test_token_by_token_gives_the_logits_of_one_pass(case: Case) -> None:
    decoder = decoder_of(alone(case, activations="float"))
    expected, _ = decoder.run(case.token_ids)
    assert_close(decode_logits(decoder, case.token_ids), expected, FLOAT_SUMS)


def test_with_float_activations_the_tables_are_all_that_changes(case: Case) -> None:
    graph = alone(case, activations="float")
    assert {node.op_type for node in nodes_of(graph, HEAD)} >= {"DequantizeLinear", "MatMul"}
    floats = case.before(QuantiseLinears)
    for module in tables_of(case):
        weight = floats.graph.initializers[f"{module}.weight"]
        values = round_to_nearest(weight_of(floats, f"{module}.weight"), split_of(case))
        weight.const_value = ir.tensor(values.dequantise(), name=weight.name)
    expected, _ = decoder_of(floats).run(case.token_ids)
    session = session_of(graph, fold_weights=True)  # or ONNX Runtime rounds what lm_head reads
    assert_close(Decoder(session).run(case.token_ids)[0], expected, HALF_PRECISION)
    assert np.abs(expected - case.logits).max() > 2 * HALF_PRECISION * np.abs(expected).max()


def test_inlined_operators_give_the_same_logits(case: Case) -> None:
    graph = alone(case)
    expected, _ = decoder_of(graph).run(case.token_ids)
    InlinePass()(graph)
    assert not graph.functions
    assert_close(decoder_of(graph).run(case.token_ids)[0], expected, FLOAT_SUMS)


METHODS: Final = ("quarot", "outlier", "rtn")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", SPLITS)
def test_every_method_may_share_its_table(llama: Case, method: Any, bits: int) -> None:
    case = llama.with_recipe(method=method, head_bits=bits)
    graph = case.lifted
    for one in case.folding(case.projections):
        one(graph)
    floats, _ = decoder_of(graph).run(case.token_ids)
    assert_close(floats, case.logits, FLOAT_SUMS)
    found, _ = decoder_of(alone(case, graph)).run(case.token_ids)
    # Without a high part 4 bits are all there is, for embedding, input and weights.
    plain = bits == 4 and method != "outlier"
    assert_close(found, case.logits, LOGIT_TOLERANCE[bits] * (2 if plain else 1))


def test_the_head_absorbs_the_norm_that_is_right_before_it(case: Case) -> None:
    graph = case.after(QuantiseEmbedding)
    node = only_node(graph, HEAD, "MixedPrecisionMatMul")
    split = split_of(case)
    given = [value is not None for value in node.inputs]
    assert given[:5] == [True, split.low > 0, split.low > 0, True, True]
    assert not any(given[5:])
    assert node.outputs[0] is graph.graph.outputs[0]
    assert node.outputs[0].name == "logits"
    assert node.outputs[0].shape == ir.Shape(["batch", "sequence", case.layout.vocab_size])
    left = Counter(ops_of(case.after(CleanUp)))
    if case.shares_table:
        assert "norm_epsilon" not in node.attributes
        assert left["RMSNormalization"] == left["MatMul"] == 1
    else:
        epsilon = node.attributes.get_float("norm_epsilon")
        assert epsilon == pytest.approx(case.layout.norm_epsilon)
        assert not {"RMSNormalization", "MatMul"} & set(left)


def test_a_tied_embedding_is_refused_by_name(llama: Case) -> None:
    with pytest.raises(ValueError, match="lm_head"):
        QuantiseEmbedding(llama.layout, llama.recipe)(llama.lifted)


def test_a_graph_without_a_head_is_refused_by_name(separate: Case) -> None:
    graph = separate.before(QuantiseEmbedding)
    del graph.graph.initializers["lm_head.weight"]
    with pytest.raises(ValueError, match="lm_head"):
        QuantiseEmbedding(separate.layout, separate.recipe)(graph)
