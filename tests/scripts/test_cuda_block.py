from __future__ import annotations

import pytest

from scripts.cuda_block import CALLS, PAPER, SYNCHRONOUS, layer_floor, layer_table
from scripts.cuda_roofline import CARDS, MODELS, card, floor
from scripts.cuda_work import layer

LLAMA = MODELS[0]
H100 = next(gpu for gpu in CARDS if gpu.name == "H100")


def test_a_layer_takes_as_long_as_its_kernels() -> None:
    for gpu in CARDS:
        items = list(layer(LLAMA, CALLS[0], gpu.has_int4))
        assert layer_floor(LLAMA, CALLS[0], gpu).ours == pytest.approx(
            sum(floor(item.ours, gpu).seconds for item in items)
        )


def test_slower_tensor_cores_change_a_prompt_of_ours_and_nothing_else() -> None:
    prompt, step = (layer_floor(LLAMA, call, H100) for call in CALLS)
    slower, same = (layer_floor(LLAMA, call, H100, SYNCHRONOUS) for call in CALLS)
    assert slower.half == prompt.half
    assert slower.ratio < prompt.ratio
    assert same == step


def test_mma_sync_cannot_reach_1_4_times_float16_on_an_h100() -> None:
    """What docs/cuda.md says in words."""
    assert layer_floor(LLAMA, CALLS[0], H100).ratio > 1.4
    assert layer_floor(LLAMA, CALLS[0], H100, SYNCHRONOUS).ratio == pytest.approx(1.06, abs=0.01)


def test_the_table_ends_with_the_paper() -> None:
    lines = list(layer_table(LLAMA))
    assert any(line.startswith("| 3090 |") for line in lines)
    assert f"| {PAPER[0]} | | {PAPER[1]} |" in lines[-1]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 3090", "3090"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
    ],
)
def test_a_card_is_known_by_what_its_driver_calls_it(name: str, known: str) -> None:
    found = card(name)
    assert found is not None
    assert found.name == known


def test_of_another_card_no_figures_are_known() -> None:
    assert card("simt, this CPU") is None
