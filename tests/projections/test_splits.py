"""How the input of down_proj is divided: about an eighth, so that it is rotated fast."""

from __future__ import annotations

import dataclasses
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resq_onnx.errors import ResqError
from resq_onnx.families import FAMILIES, ModelLayout
from resq_onnx.projections.hadamard import outer_order
from resq_onnx.projections.splits import (
    COSTLY,
    NEARLY,
    down_rotation_cost,
    down_split,
    least_down_split,
    uniform_splits,
)
from resq_onnx.recipe import BitSplit, Recipe

COSTLY_SIZES: Final = {
    # width: the parts of an eighth and their outer orders, the chosen ones and theirs
    14336: ((12544, 1792), (196, 28), (12288, 2048), (12, 2)),
    11008: ((9632, 1376), (301, 43), (9216, 1792), (36, 28)),
    13824: ((12096, 1728), (189, 108), (11776, 2048), (23, 2)),
    4864: ((4256, 608), (133, 76), (4096, 768), (4, 12)),
    8960: ((7840, 1120), (245, 140), (7680, 1280), (60, 20)),
    18944: ((16576, 2368), (259, 148), (16384, 2560), (16, 20)),
    272: ((238, 34), (119, 17), (232, 40), (29, 20)),
}


def orders(split: BitSplit) -> tuple[int, int]:
    return outer_order(split.low), outer_order(split.high)


@pytest.mark.parametrize("width", COSTLY_SIZES)
def test_a_costly_rotation_is_made_cheap_by_a_larger_high_part(width: int) -> None:
    least, chosen = least_down_split(Recipe(), width), down_split(Recipe(), width)
    found = ((least.low, least.high), orders(least), (chosen.low, chosen.high), orders(chosen))
    assert found == COSTLY_SIZES[width]
    assert down_rotation_cost(chosen) < down_rotation_cost(least) / 3


@pytest.mark.parametrize("width", [1536, 768, 192, 96, 48, 8192, 5632])
def test_an_eighth_that_is_cheap_to_rotate_stays(width: int) -> None:
    """SmolLM2-135M's among them, whose low part has an outer order of 84."""
    assert down_split(Recipe(), width) == BitSplit(width - width // 8, width // 8)


@settings(deadline=None)  # a busy machine is no failure
@given(st.integers(1, 2000))
def test_the_high_part_is_from_an_eighth_to_a_sixth(sixteenths: int) -> None:
    width = 16 * sixteenths
    least, chosen = least_down_split(Recipe(), width), down_split(Recipe(), width)
    assert least.high == width // 8
    assert least.high <= chosen.high <= width / 6
    assert chosen.width == width
    assert chosen.low % 2 == chosen.high % 2 == 0
    assert (chosen.low_bits, chosen.high_bits) == (4, 8)
    assert (chosen == least) or down_rotation_cost(least) > COSTLY * width
    assert down_rotation_cost(chosen) <= NEARLY * down_rotation_cost(least)


@pytest.mark.parametrize("share", [0.0, 1 / 16, 1 / 8, 1 / 4])
def test_a_share_that_is_named_is_taken_exactly(share: float) -> None:
    assert down_split(Recipe(down_high=share), 14336).high == share * 14336


def test_methods_differ_by_whether_they_have_a_high_part_at_all() -> None:
    assert down_split(Recipe(method="outlier"), 14336) == BitSplit(12288, 2048)
    assert down_split(Recipe(method="quarot"), 14336) == BitSplit(14336, 0)
    assert down_split(Recipe(low_bits=8), 14336) == BitSplit(12288, 2048, 8, 8)


def test_a_size_of_which_there_is_no_eighth_is_refused() -> None:
    with pytest.raises(ResqError, match=r"--down-high 0\.125 of the intermediate size 36 is 4\.5"):
        down_split(Recipe(), 36)


def test_every_layer_is_divided_so() -> None:
    layout = ModelLayout(
        family=FAMILIES["LlamaForCausalLM"],
        num_layers=3,
        hidden_size=64,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=272,
        vocab_size=32,
        max_positions=64,
        norm_epsilon=1e-5,
        tied=False,
    )
    assert uniform_splits(Recipe(), layout).down == (BitSplit(232, 40),) * 3
    narrower = dataclasses.replace(layout, intermediate_size=192)
    assert uniform_splits(Recipe(), narrower).down == (BitSplit(168, 24),) * 3
