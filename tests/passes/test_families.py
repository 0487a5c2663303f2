"""Every family's function stays through lifting and folding, on any size, cached or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resq_onnx.graph.replacing import find_attention
from resq_onnx.passes.merge_projections import MergeProjections
from tests.passes.cases import FAMILY_CASES, Case, assert_same_function, ops_of
from tests.tiny_models import WINDOW


@pytest.fixture(params=FAMILY_CASES)
def family(cases: Callable[[str], Case], request: pytest.FixtureRequest) -> Case:
    return cases(request.param)


def test_the_logits_and_the_cache_stay_when_modules_are_lifted(family: Case) -> None:
    assert_same_function(family, family.lifted)


def test_the_logits_stay_when_bases_are_folded(family: Case) -> None:
    assert_same_function(family, family.after(MergeProjections), keys=True, values=True)


def test_a_layer_is_as_many_linear_layers_as_in_any_family(family: Case) -> None:
    """And one behind each norm that layers read, or one before lm_head if it shares its table."""
    layers, turns = family.layout.num_layers, family.layout.turns_inputs
    found = ops_of(family.after(MergeProjections)).count("MatMul")
    assert found == layers * (6 if turns else 4) + 1 + (family.shares_table and not turns)


def windows(case: Case) -> list[int]:
    found = [
        find_attention(case.lifted, case.layout.module(layer, "attention"))
        for layer in range(case.layout.num_layers)
    ]
    return [node.attributes.get_int("local_window") for node in found]


def test_windows_are_those_of_the_layers(cases: Callable[[str], Case]) -> None:
    assert windows(cases("qwen3 with windows")) == [-1, WINDOW]
    assert windows(cases("phi3 partly rotary")) == [WINDOW, WINDOW]
    assert windows(cases("gemma3 untied")) == [WINDOW, -1]
    assert windows(cases("smollm3 tied")) == [-1, -1]


def test_rope_turns_what_the_layer_says(cases: Callable[[str], Case]) -> None:
    def turned(case: Case) -> list[int]:
        modules = [case.layout.module(layer, "attention") for layer in range(2)]
        nodes = [find_attention(case.lifted, module) for module in modules]
        return [node.attributes.get_int("rotary_dim") for node in nodes]

    assert turned(cases("phi3 partly rotary")) == [12, 12]
    assert turned(cases("smollm3 tied")) == [16, 2]  # the pair that is turned by nothing


def test_layers_with_other_frequencies_have_tables_of_their_own(
    cases: Callable[[str], Case],
) -> None:
    case = cases("gemma3 untied")
    modules = [case.layout.module(layer, "attention") for layer in range(2)]
    first, second = (find_attention(case.lifted, module).inputs[5] for module in modules)
    assert first is not None
    assert second is not None
    assert first.name != second.name
