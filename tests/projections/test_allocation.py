"""Ranks from spectra: the budget is kept, and what it buys is the least error bound."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.families import FAMILIES, ModelLayout
from resq_onnx.projections.allocation import (
    LARGEST_OUTER_ORDER,
    Candidates,
    Energies,
    allocate,
    choose_splits,
)
from resq_onnx.projections.error_bound import error_bound
from resq_onnx.projections.hadamard import outer_order
from resq_onnx.projections.splits import LINEAR_SITES, Splits, splits_from_json, uniform_splits
from resq_onnx.recipe import BitSplit, Recipe

LAYOUT: Final = ModelLayout(
    family=FAMILIES["LlamaForCausalLM"],
    num_layers=4,
    hidden_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=192,
    vocab_size=32,
    max_positions=64,
    norm_epsilon=1e-5,
    tied=False,
)

ROUNDING: Final = 1e-9

UNSPENT: Final = 0.05
"""Bits that may be left of a budget: the steps left are too large for it. A step of 4 coefficients
before one down_proj is 0.005 bits, but a hull may join several."""

Array = NDArray[Any]


def decaying(*shape: int, power: float = 1.0) -> Array:
    """Energies that rise towards the end, (..., width)."""
    curve = np.arange(shape[-1], 0, -1.0) ** -power
    return np.broadcast_to(curve, shape)


def energies(power: float = 1.0) -> Energies:
    layers = LAYOUT.num_layers
    return Energies(
        attention=decaying(layers, 64, power=power),
        mlp=decaying(layers, 64, power=power),
        attention_out=decaying(layers, 4, 16, power=power),
        down=decaying(layers, 192, power=power),
    )


def total_bound(found: Splits, of: Energies, recipe: Recipe) -> float:
    """What is to be small, for splits in which no site is cut into blocks."""
    usual, total = uniform_splits(recipe, LAYOUT), 0.0
    counts = {"attention": 8192, "mlp": 24576, "attention_out": 4096, "down": 12288}
    for site in LINEAR_SITES:
        for layer, split in enumerate(getattr(found, site)):
            groups = np.atleast_2d(getattr(of, site)[layer])
            ratio = bound(groups, split) / bound(groups, getattr(usual, site)[layer])
            total += counts[site] * ratio
    return total


def bound(groups: Array, split: BitSplit) -> float:
    parts = [np.split(row, [split.low]) for row in groups]
    return sum(error_bound(split, float(low.sum()), float(high.sum())) for low, high in parts)


@settings(deadline=None, max_examples=20)
@given(st.floats(4.0, 5.7), st.floats(0.3, 2.5))
def test_the_mean_of_all_bits_is_the_target_or_a_little_less(target: float, power: float) -> None:
    recipe = Recipe(target_bits=target)
    found = choose_splits(recipe, LAYOUT, energies(power))
    assert target - UNSPENT < found.mean_bits(LAYOUT) <= target + ROUNDING
    assert found.record == uniform_splits(recipe, LAYOUT).record
    for site in LINEAR_SITES:
        widths = {split.width for split in getattr(found, site)}
        assert widths == {getattr(uniform_splits(recipe, LAYOUT), site)[0].width}
        assert all(split.low % 2 == split.high % 2 == 0 for split in getattr(found, site))


def test_mean_bits_are_those_of_the_weights_whatever_the_site() -> None:
    found = uniform_splits(Recipe(), LAYOUT)
    assert found.mean_bits(LAYOUT) == pytest.approx(4.5)
    no_down = dataclasses.replace(found, down=(BitSplit(192, 0),) * 4)
    # 12,288 of a layer's 49,152 weights lose half a bit.
    assert no_down.mean_bits(LAYOUT) == pytest.approx(4.5 - 0.5 * 12288 / 49152)


def test_no_bound_is_larger_than_with_fewer_bits() -> None:
    found = [
        choose_splits(Recipe(target_bits=bits), LAYOUT, energies(1.2))
        for bits in (4.0, 4.1, 4.25, 4.5, 4.75, 5.0, 5.5)
    ]
    assert all(len(splits.hidden_edges()) <= 1 for splits in found)  # else total_bound is too small
    totals = [total_bound(splits, energies(1.2), Recipe()) for splits in found]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(totals)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_spectra_of_equal_shape_give_equal_fractions(power: float) -> None:
    """However large an activation is at a site: nothing is gained by moving bits."""
    of, recipe = energies(power), Recipe(target_bits=4.5)
    scaled = dataclasses.replace(of, mlp=100 * of.mlp, down=1e-4 * of.down)
    assert choose_splits(recipe, LAYOUT, scaled) == uniform_splits(recipe, LAYOUT)


def test_where_spectra_differ_the_bound_is_below_that_of_uniform_fractions() -> None:
    recipe, of = Recipe(target_bits=4.5), energies()
    powers = np.array([0.3, 0.8, 1.3, 2.0])
    down = np.stack([decaying(192, power=power) for power in powers])
    of = dataclasses.replace(of, down=down, mlp=decaying(4, 64, power=1.5))
    found = choose_splits(recipe, LAYOUT, of)
    assert len(found.hidden_edges()) == 1  # else total_bound is too small
    usual = total_bound(uniform_splits(recipe, LAYOUT), of, recipe)
    assert usual == pytest.approx(4 * 49152)
    assert total_bound(found, of, recipe) < 0.99 * usual


def test_equal_spectra_give_equal_ranks_up_to_what_is_left_of_the_budget() -> None:
    found = choose_splits(Recipe(target_bits=4.7), LAYOUT, energies())
    for site in LINEAR_SITES:
        ranks = sorted({split.high for split in getattr(found, site)})
        assert len(ranks) <= 2, site
    assert len({split.high for split in (*found.attention, *found.mlp)}) == 1


def test_a_layer_whose_energy_is_concentrated_gets_the_rank_that_holds_it() -> None:
    of = energies(0.1)
    down = of.down.copy()
    down[2, :-24] *= 1e-3  # all of this layer's energy is in 24 channels
    down[3] = 1.0  # nothing is gained by choosing channels
    found = choose_splits(Recipe(target_bits=4.4), LAYOUT, dataclasses.replace(of, down=down))
    ranks = [split.high for split in found.down]
    assert ranks[2] >= 24
    assert ranks[3] <= min(ranks[:2])


def test_one_rank_of_the_stream_is_better_than_blocks_that_are_rotated_apart() -> None:
    """Also where q/k/v and gate/up would each like a rank of their own, if they nearly agree."""
    of = energies(0.5)
    found = choose_splits(
        Recipe(target_bits=4.5), LAYOUT, dataclasses.replace(of, mlp=decaying(4, 64, power=0.6))
    )
    assert len({split.high for split in (*found.attention, *found.mlp)}) == 1


def test_two_ranks_of_the_stream_are_chosen_where_the_spectra_differ_much() -> None:
    attention, mlp = np.full((4, 64), 1e-3), np.full((4, 64), 1e-3)
    attention[:, -8:] = 1.0
    mlp[:, -24:-8], mlp[:, -8:] = 0.5, 1.0
    of = dataclasses.replace(energies(0.1), attention=attention, mlp=mlp)
    found = choose_splits(Recipe(target_bits=4.9), LAYOUT, of)
    assert {split.high for split in found.attention} == {8}
    assert {split.high for split in found.mlp} == {24}


def test_parts_before_down_can_be_rotated_fast() -> None:
    for bits in (4.1, 4.3, 5.0):
        for split in choose_splits(Recipe(target_bits=bits), LAYOUT, energies()).down:
            parts = [part for part in (split.low, split.high) if part]
            assert all(outer_order(part) <= LARGEST_OUTER_ORDER for part in parts)


def test_a_head_has_no_larger_rank_before_o_proj_than_in_the_cache() -> None:
    of = energies(2.0)
    found = choose_splits(Recipe(target_bits=5.5, high_fraction=0.25), LAYOUT, of)
    assert found.record.high == 4
    assert all(split.high <= 4 for split in found.attention_out)
    assert found.head_edges(0) == sorted({12, found.attention_out[0].low} - {16})


def test_an_odd_width_stays_undivided() -> None:
    layout = dataclasses.replace(LAYOUT, hidden_size=45, num_heads=3, intermediate_size=27)
    of = Energies(decaying(4, 45), decaying(4, 45), decaying(4, 3, 16), decaying(4, 27))
    recipe = Recipe(target_bits=4.5, high_fraction=0.0, down_high=0.0)
    assert choose_splits(recipe, layout, of) == uniform_splits(recipe, layout)


def test_splits_survive_json() -> None:
    found = choose_splits(Recipe(target_bits=4.3), LAYOUT, energies())
    assert splits_from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"target_bits": 3.9}, "at least low_bits"),
        ({"target_bits": 8.0}, "less than high_bits"),
        ({"target_bits": 8.0, "low_bits": 8}, "less than high_bits"),
        ({"target_bits": 4.5, "method": "quarot"}, "is for method resq"),
    ],
)
def test_a_target_that_cannot_be_is_refused(choices: dict[str, Any], reason: str) -> None:
    with pytest.raises(ResqError, match=reason):
        Recipe(**choices)


@st.composite
def small_problems(draw: st.DrawFn) -> tuple[list[Candidates], float]:
    """Up to four matrices of a few splits, and a budget."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        ranks = sorted(draw(st.sets(st.integers(1, 15), min_size=1, max_size=4)) | {0})
        bounds = draw(st.lists(st.floats(0, 100), min_size=len(ranks), max_size=len(ranks)))
        splits = tuple(BitSplit(16 - rank, rank) for rank in ranks)
        found.append(Candidates(draw(st.integers(1, 9)) * 16, splits, tuple(bounds)))
    least = sum(one.bits(0) for one in found)
    return found, least * draw(st.floats(1.0, 2.0))


@settings(deadline=None)
@given(small_problems())
def test_no_choice_is_better_by_more_than_one_step(
    problem: tuple[list[Candidates], float],
) -> None:
    """Against all choices; the slow twin gets a budget without the largest step."""
    candidates, budget = problem
    chosen = allocate(candidates, budget)
    assert chosen is not None
    spent, total = spent_and_bound(candidates, chosen)
    assert spent <= budget
    step = max(one.bits(len(one.splits) - 1) - one.bits(0) for one in candidates)
    every = itertools.product(*(range(len(one.splits)) for one in candidates))
    fitting = [
        bound
        for cost, bound in (spent_and_bound(candidates, choice) for choice in every)
        if cost <= budget - step
    ]
    assert total <= min(fitting, default=np.inf) + ROUNDING


def spent_and_bound(candidates: list[Candidates], chosen: Any) -> tuple[float, float]:
    pairs = list(zip(candidates, chosen, strict=True))
    return (
        sum(one.bits(choice) for one, choice in pairs),
        sum(one.bounds[choice] for one, choice in pairs),
    )


def test_a_budget_below_the_first_splits_is_told_by_none() -> None:
    one = Candidates(16, (BitSplit(16, 0),), (1.0,))
    assert allocate([one], 63.9) is None
    assert allocate([one], 64.0) == [0]
