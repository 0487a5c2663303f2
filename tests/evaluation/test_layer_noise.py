"""Noise of layers: rotations that are known, and ratios computed by hand."""

from __future__ import annotations

import math
from typing import Any, Final, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation import LayeredModel
from resq_onnx.evaluation.layer_noise import LayerNoise, align, procrustes

WIDTH: Final = 24
VOCABULARY: Final = 3000

EXACT: Final = 1e-6
"""A matrix from float32 embeddings, by float64 arithmetic."""

NOISY: Final = 3e-3
"""With noise of 1 % on 3,000 tokens: 0.01 √(24 / 3000) is 9e-4 for an entry at most, and here is
three times as much."""


class Embedding:
    """A model of which only the embedding matters."""

    def __init__(self, table: NDArray[np.float32]) -> None:
        self.table = table
        self.seen: list[int] = []

    def embeddings(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self.seen += ids.ravel().tolist()
        return self.table[ids]


def table(seed: int = 0, width: int = WIDTH) -> NDArray[np.float32]:
    """Embeddings of which some directions are a hundred times as strong as others."""
    random = np.random.default_rng(seed)
    scales = np.geomspace(0.1, 10.0, width)
    return cast(
        "NDArray[np.float32]", (random.normal(size=(VOCABULARY, width)) * scales).astype(np.float32)
    )


def layered(rows: Any) -> LayeredModel:
    return cast(LayeredModel, Embedding(np.asarray(rows, np.float32)))


def rotation(seed: int) -> NDArray[np.float64]:
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).normal(size=(WIDTH, WIDTH)))[0])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_known_rotation_is_found_again(seed: int) -> None:
    expected = rotation(seed)
    found = align(layered(table()), layered(table() @ expected), VOCABULARY)
    np.testing.assert_allclose(found, expected, atol=EXACT)


def test_a_reflection_is_found_as_well() -> None:
    expected = rotation(1)
    expected[:, 0] *= -np.linalg.det(expected)
    assert np.linalg.det(expected) == pytest.approx(-1.0)
    found = align(layered(table()), layered(table() @ expected), VOCABULARY)
    np.testing.assert_allclose(found, expected, atol=EXACT)


def test_noise_averages_out_of_the_rotation_which_stays_orthogonal() -> None:
    expected = rotation(3)
    rows = np.random.default_rng(4).normal(size=(VOCABULARY, WIDTH))
    noise = 0.01 * np.random.default_rng(5).normal(size=(VOCABULARY, WIDTH))
    found = align(layered(rows), layered(rows @ expected + noise), VOCABULARY)
    np.testing.assert_allclose(found, expected, atol=NOISY)
    np.testing.assert_allclose(found @ found.T, np.eye(WIDTH), atol=EXACT)


def test_no_other_orthogonal_matrix_is_nearer() -> None:
    """The definition: U makes |A U - B| least."""
    random = np.random.default_rng(6)
    a, b = random.normal(size=(2, 40, WIDTH))
    best = np.linalg.norm(a @ procrustes(a.T @ b) - b)
    for seed in range(20):
        assert np.linalg.norm(a @ rotation(seed) - b) > best
    turned = procrustes(a.T @ b) @ rotation_near_identity(seed=7)
    assert np.linalg.norm(a @ turned - b) > best


def rotation_near_identity(seed: int) -> NDArray[np.float64]:
    step = 0.01 * np.random.default_rng(seed).normal(size=(WIDTH, WIDTH))
    return np.asarray(np.linalg.qr(np.eye(WIDTH) + step - step.T)[0])


def test_only_tokens_of_the_vocabulary_are_embedded_each_once() -> None:
    model = Embedding(table())
    align(layered(table()), cast(LayeredModel, model), vocabulary=50)
    assert sorted(model.seen) == list(range(50))


def test_models_of_different_width_cannot_be_aligned() -> None:
    with pytest.raises(ResqError, match="hidden size is 12 and the reference's 24"):
        align(layered(table()), layered(table(width=12)), VOCABULARY)


def stream(*tokens: list[float]) -> NDArray[np.float32]:
    """One layer's output, (1, tokens, D)."""
    return np.array([tokens], np.float32)


def test_a_ratio_is_the_noise_of_each_token_relative_to_its_own_signal() -> None:
    noise = LayerNoise(np.eye(2))
    # A token a hundred times as long does not hide what happens to the other.
    noise.add(stream([100.0, 0.0], [0.0, 1.0]), stream([99.0, 0.0], [0.5, 1.0]))
    expected = 10 * math.log10(1 / ((0.0001 + 0.25) / 2))
    assert noise.decibels == pytest.approx((expected,))


def test_windows_count_by_their_tokens() -> None:
    noise = LayerNoise(np.eye(2))
    noise.add(stream([1.0, 0.0]), stream([0.0, 0.0]))
    noise.add(
        stream([1.0, 0.0], [1.0, 0.0], [0.0, 1.0]), stream([1.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    )
    assert noise.decibels == pytest.approx((10 * math.log10(4),))


def test_the_reference_is_turned_into_the_basis_of_the_model() -> None:
    basis = rotation(8)
    tokens = np.random.default_rng(9).normal(size=(3, 5, WIDTH))
    noise = LayerNoise(basis)
    noise.add(tokens.astype(np.float32), (tokens @ basis).astype(np.float32))
    float32 = 10 * math.log10(1 / EXACT**2)
    assert len(noise.decibels) == 3
    assert min(noise.decibels) > float32


def test_without_noise_the_ratio_is_infinite() -> None:
    noise = LayerNoise(np.eye(2))
    noise.add(stream([1.0, 2.0]), stream([1.0, 2.0]))
    assert noise.decibels == (math.inf,)


def test_a_token_of_which_nothing_is_left_has_no_noise_to_divide() -> None:
    noise = LayerNoise(np.eye(2))
    noise.add(stream([0.0, 0.0], [1.0, 0.0]), stream([0.0, 0.0], [0.0, 0.0]))
    assert noise.decibels == pytest.approx((10 * math.log10(2),))


def test_models_of_different_depth_cannot_be_compared() -> None:
    noise = LayerNoise(np.eye(2))
    two = np.zeros((2, 1, 2), np.float32)
    with pytest.raises(ResqError, match="the model has 0 layers and the reference 1"):
        noise.add(two, two[:1])
