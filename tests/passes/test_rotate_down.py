"""U_D before down_proj: order and signs in the weights, Hadamard matrices when the model runs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.graph.modules import find_linear
from resq_onnx.passes import folding
from resq_onnx.passes.lift_mlp import LiftMlp
from resq_onnx.passes.rotate_down import RotateDown
from resq_onnx.recipe import Recipe
from tests.functions.engines import assert_close
from tests.passes.cases import FLOAT_TOLERANCE as TOLERANCE
from tests.passes.cases import (
    Case,
    assert_same_function,
    assert_weights,
    changed,
    decoder_of,
    weights_of,
)


def dense(case: Case, layer: int) -> NDArray[np.float64]:
    """U_D, written as the product of its factors."""
    bases = case.projections
    transform, low = bases.down[layer], bases.down_split.low
    permutation = np.zeros((bases.down_split.width,) * 2)
    permutation[transform.order, np.arange(len(permutation))] = 1.0
    rotation = np.zeros_like(permutation)
    first, last = bases.down_low[low], bases.down_high[bases.down_split.high]
    rotation[:low, :low] = np.kron(first.outer, first.inner)
    rotation[low:, low:] = np.kron(last.outer, last.inner)
    return np.asarray(permutation @ np.diag(transform.signs) @ rotation)


def factor_names(case: Case, layer: int) -> list[str]:
    """Of the layer's factors as GatedHadamard reads them."""
    bases = case.projections
    split, names = bases.splits.down[layer], []
    for part, pair in (("low", bases.down_low[split.low]), ("high", bases.down_high[split.high])):
        names += [f"hadamard.{part}_outer{len(pair.outer)}", f"hadamard.inner{len(pair.inner)}"]
    return names


def test_the_logits_stay(case: Case) -> None:
    assert_same_function(case, case.after(RotateDown), keys=True, values=True)


def test_rows_move_signs_go_to_up_and_down_is_multiplied(case: Case) -> None:
    before, after = weights_of(case.before(RotateDown)), weights_of(case.after(RotateDown))
    expected = {}
    for layer, transform in enumerate(case.projections.down):
        mlp = f"model.layers.{layer}.mlp"
        for parameter in ("weight", "bias"):
            gate, up = f"{mlp}.gate_proj.{parameter}", f"{mlp}.up_proj.{parameter}"
            if gate not in before:
                continue
            rows = list(zip(transform.order, transform.signs, strict=True))
            expected[gate] = np.stack([before[gate][old] for old, _ in rows])
            expected[up] = np.stack([before[up][old] * sign for old, sign in rows])
        down = f"{mlp}.down_proj.weight"
        expected[down] = before[down] @ dense(case, layer)
    assert_weights(after, expected)
    factors = set(factor_names(case, layer=0))
    assert changed(before, after) == set(expected) | factors


def test_order_and_signs_are_not_trivial(case: Case) -> None:
    for transform in case.projections.down:
        assert not np.array_equal(transform.order, np.arange(len(transform.order)))
        assert set(transform.signs) == {-1.0, 1.0}


def test_all_layers_read_the_same_factors(llama: Case) -> None:
    graph = llama.after(RotateDown)
    nodes = [node for node in graph.graph if node.op_type == "GatedHadamard"]
    first, second = (list(node.inputs[1:]) for node in nodes)
    assert [value.name for value in first if value is not None] == factor_names(llama, layer=0)
    assert all(one is two for one, two in zip(first, second, strict=True))
    high = llama.projections.down_split.high
    assert {node.attributes.get_int("high_rank") for node in nodes} == {high}


def of_differing_layers(case: Case) -> Case:
    """The same model, as if energies were spread so that ranks differ by site and layer."""
    found = Case(case.source, case.model, Recipe(weights="rtn", target_bits=4.9))
    moments = copy.deepcopy(case.moments)
    moments.down[0] = np.diag(np.arange(1.0, len(moments.down[0]) + 1) ** 4)
    eight, more = np.full(64, 1e-3), np.full(64, 1e-3)
    eight[-8:] = more[-8:] = 1.0
    more[-24:-8] = 0.5
    moments.hidden_attention[:], moments.hidden_mlp[:] = np.diag(eight), np.diag(more)
    found.moments = moments
    splits = found.projections.splits
    assert splits.down[0] != splits.down[1]
    assert splits.attention[0] != splits.mlp[0]
    return found


def test_the_logits_stay_with_ranks_by_layer_too(biased: Case) -> None:
    case = of_differing_layers(biased)
    graph = case.after(RotateDown)
    assert_same_function(case, graph, keys=True, values=True)
    nodes = [node for node in graph.graph if node.op_type == "GatedHadamard"]
    ranks = [node.attributes.get_int("high_rank") for node in nodes]
    assert ranks == [split.high for split in case.projections.splits.down]
    for layer, node in enumerate(nodes):
        names = [value.name for value in node.inputs[1:] if value is not None]
        assert names == factor_names(case, layer)


def test_factors_of_equal_order_are_stored_once(llama: Case) -> None:
    case = of_differing_layers(llama)
    names = [name for name in case.after(RotateDown).graph.initializers if "hadamard" in name]
    expected = {name for layer in range(2) for name in factor_names(case, layer)}
    assert sorted(names) == sorted(expected)
    pairs = [*case.projections.down_low.values(), *case.projections.down_high.values()]
    inner = {len(pair.inner): pair.inner for pair in pairs}
    for pair in pairs:  # so that one name may stand for all of an order
        np.testing.assert_array_equal(pair.inner, inner[len(pair.inner)])


RECIPES = {
    "quarot": Recipe(method="quarot"),
    "outlier": Recipe(method="outlier"),
    "rtn": Recipe(method="rtn"),
    "no high part before down": Recipe(down_high=0.0),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_method_folds_without_changing_the_function(biased: Case, recipe: Recipe) -> None:
    graph = biased.lifted
    for one in folding(biased.layout, recipe, biased.projections_of(recipe)):
        one(graph)
    logits, _ = decoder_of(graph).run(biased.token_ids)
    assert_close(logits, biased.logits, TOLERANCE)


@pytest.mark.parametrize("method", ["rtn", "outlier"])
def test_without_a_rotation_there_are_no_factors(llama: Case, method: str) -> None:
    graph = llama.before(RotateDown)
    recipe = RECIPES[method]
    RotateDown(llama.layout, llama.projections_of(recipe))(graph)
    assert not [name for name in graph.graph.initializers if name.startswith("hadamard")]
    nodes = [node for node in graph.graph if node.op_type == "GatedHadamard"]
    assert {len(node.inputs) for node in nodes} == {1}


def test_a_layer_that_was_not_lifted_is_refused_by_name(llama: Case) -> None:
    with pytest.raises(ValueError, match=r"model\.layers\.0\.mlp\.down_proj: its input is not"):
        RotateDown(llama.layout, llama.projections)(llama.before(LiftMlp))


def test_the_graph_still_has_one_gate_per_layer(llama: Case) -> None:
    graph = llama.after(RotateDown)
    for layer in range(llama.layout.num_layers):
        source = find_linear(graph, llama.layout.module(layer, "down")).source.producer()
        assert source is not None
        assert source.op_type == "GatedHadamard"
