"""Sampling against its slow and obvious twin."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.sampling import Sampler, draw, highest, likeliest


def obvious(weights: NDArray[np.float64], share: float) -> list[int]:
    """Sort all of them, and take one after the other until there is enough."""
    taken: list[int] = []
    total = 0.0
    for token in np.argsort(-weights, kind="stable"):
        taken.append(int(token))
        total += weights[token]
        if total >= share * weights.sum():
            break
    return taken


def some_weights(seed: int, size: int, spread: float) -> NDArray[np.float64]:
    """As of a softmax, with equal ones among them and the largest 1."""
    logits = np.random.default_rng(seed).normal(0, spread, size).round(1)
    weights: NDArray[np.float64] = np.exp(logits - logits.max())
    return weights


@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 400),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0, 50.0]),
    share=st.floats(0.001, 1.0),
)
def test_the_likeliest_are_those_of_a_full_sort(
    seed: int, size: int, spread: float, share: float
) -> None:
    weights = some_weights(seed, size, spread)
    assert likeliest(weights, share).tolist() == obvious(weights, share)


@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 2000),
    most=st.sampled_from([1, 3, 1000]),
    share=st.floats(0.0, 1.0, exclude_max=True),
)
def test_a_draw_is_the_one_of_the_running_sum(
    seed: int, size: int, most: int, share: float
) -> None:
    """Of whole numbers, whose sums are exact in any order; most of them 0."""
    rng = np.random.default_rng(seed)
    weights = (rng.integers(0, most + 1, size) * (rng.random(size) < 0.2)).astype(np.float64)
    weights[rng.integers(size)] = 1.0
    sums = weights.cumsum()
    point = min(share * sums[-1], np.nextafter(sums[-1], 0.0))
    assert draw(weights, share) == sums.searchsorted(point, side="right")


def test_every_token_is_drawn_as_often_as_its_probability_says() -> None:
    logits = np.array([*np.log([0.05, 0.2]), -np.inf, np.log(0.75)], np.float32)
    sampler = Sampler(1.0, 1.0, seed=3)
    counts = np.bincount([sampler.choose(logits) for _ in range(4000)], minlength=4)
    assert counts[2] == 0
    # Four standard deviations.
    assert counts / 4000 == pytest.approx([0.05, 0.2, 0.0, 0.75], abs=4 * (0.1875 / 4000) ** 0.5)


def test_one_random_number_is_used_for_a_token_with_and_without_top_p() -> None:
    """So a top-p that cuts nothing away draws what no top-p does, token by token."""
    logits = np.random.default_rng(0).normal(size=500).astype(np.float32)
    descending = -np.sort(-logits)  # the order in which top-p looks at them
    plain, cut = Sampler(1.0, 1.0, seed=5), Sampler(1.0, 1.0 - 1e-12, seed=5)
    assert [plain.choose(descending) for _ in range(100)] == [
        cut.choose(descending) for _ in range(100)
    ]


def test_the_smallest_temperature_takes_the_likeliest_token_without_a_warning() -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    assert {Sampler(5e-324, 1.0, seed).choose(logits) for seed in range(20)} == {1}


def test_a_draw_at_the_very_end_of_the_weights_is_the_last_token_that_has_any() -> None:
    class Highest:
        def random(self) -> float:
            return float(np.nextafter(1.0, 0.0))

    sampler = Sampler(1.0)
    sampler._random = Highest()  # type: ignore[assignment]
    logits = np.array([0.0, 0.1, 0.2, -np.inf], np.float32)
    assert sampler.choose(logits) == 2


@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 200),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    count=st.integers(0, 30),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_the_highest_are_those_of_a_full_sort(
    seed: int, size: int, spread: float, count: int, share: float
) -> None:
    weights = some_weights(seed, size, spread)
    order = np.argsort(-weights, kind="stable")[: count or None]
    assert highest(weights, count, share).tolist() == sorted(order[weights[order] >= share])


def test_top_k_and_min_p_keep_what_they_say_and_top_p_looks_at_the_rest() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))

    def drawn(**options: float) -> set[int]:
        sampler = Sampler(1.0, seed=1, **options)  # type: ignore[arg-type]
        return {sampler.choose(logits) for _ in range(300)}

    assert drawn() == {0, 1, 2, 3}
    assert drawn(top_k=2) == {1, 3}
    assert drawn(top_k=1) == {1}
    assert drawn(min_p=0.45) == {1, 2, 3}
    assert drawn(min_p=0.9) == {1}
    # Of the two that are left the first has 57 %.
    assert drawn(top_k=2, top_p=0.5) == {1}
    assert drawn(top_k=3, min_p=0.7, top_p=1.0) == {1, 3}


@pytest.mark.parametrize("options", [{"top_k": -1}, {"min_p": -0.1}, {"min_p": 1.1}], ids=str)
def test_top_k_and_min_p_outside_their_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ResqError, match="it must be"):
        Sampler(1.0, **options)  # type: ignore[arg-type]
