"""Signal-to-noise ratio of each layer's output, for two models in different bases.

The residual streams of a model and of its export differ by noise and by an orthogonal matrix U,
x_model = x_reference U + noise. U is computed at the embedding, where the noise is lowest: the
orthogonal Procrustes problem, min over U of |X_reference U - X_model|, is solved by U = V Wᵀ with
V S Wᵀ the singular value decomposition of X_referenceᵀ X_model (Schönemann, Psychometrika 1966).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.models import LayeredModel

Doubles = NDArray[np.float64]

ALIGNMENT_IDS: Final = 16384
"""Number of token ids by which two bases are aligned. With 28 per dimension of SmolLM2 (576), an
8-bit embedding leaves an error in U of about -50 dB; the noise of 4 bits is at -10 to -20 dB."""

IDS_PER_DIMENSION: Final = 8
"""Smallest number of token ids per dimension, so that noise also averages out in wide models."""

IDS_AT_A_TIME: Final = 1024


class LayerNoise:
    """Signal-to-quantisation-noise ratios of the residual stream, over windows of text.

    The noise |x_reference U - x_model|² of each token is divided by the token's signal
    |x_reference|², and averaged over tokens. RMS norm divides each token by its length, so this is
    the noise that the next layer sees. A ratio of two sums would be dominated by the first token
    of a text, which in many models is a hundred times as long as others.
    """

    def __init__(self, basis: Doubles) -> None:
        """Take U (D, D), which maps the reference's basis to the model's."""
        self._basis = basis
        self._noise: Any = 0.0
        self._tokens = 0

    def add(self, expected: NDArray[np.float32], found: NDArray[np.float32]) -> None:
        """Add the streams (layers + 1, tokens, D) of the reference and of the model.

        Raises:
            ResqError: The models have different numbers of layers.
        """
        if len(expected) != len(found):
            raise ResqError(
                f"the model has {len(found) - 1} layers and the reference {len(expected) - 1}; "
                f"give the model it was made from as --reference"
            )
        # Layer by layer, because all layers in float64 would be large.
        self._noise += np.array(
            [_relative_noise(*pair, self._basis) for pair in zip(expected, found, strict=True)]
        )
        self._tokens += expected.shape[1]

    @property
    def decibels(self) -> tuple[float, ...]:
        """10 log10 of the ratio, for the embedding and each layer."""
        with np.errstate(divide="ignore"):
            ratios = -10.0 * np.log10(self._noise / self._tokens)
        return tuple(ratios.tolist())


def align(reference: LayeredModel, model: LayeredModel, vocabulary: int) -> Doubles:
    """The orthogonal matrix U (D, D) from the reference's residual basis to the model's.

    Args:
        reference: The model with residual stream x.
        model: The model with residual stream x U, plus noise.
        vocabulary: Number of token ids that both models have; those used are spread over all.

    Raises:
        ResqError: Their hidden sizes differ.
    """
    width = reference.embeddings(np.zeros((1, 1), np.int64)).shape[-1]
    count = min(vocabulary, max(ALIGNMENT_IDS, IDS_PER_DIMENSION * width))
    ids = np.unique(np.linspace(0, vocabulary - 1, count).astype(np.int64))
    product: Any = 0.0
    for start in range(0, len(ids), IDS_AT_A_TIME):
        some = ids[None, start : start + IDS_AT_A_TIME]
        expected, found = (one.embeddings(some)[0] for one in (reference, model))
        if expected.shape != found.shape:
            raise ResqError(
                f"the model's hidden size is {found.shape[1]} and the reference's "
                f"{expected.shape[1]}; give the model it was made from as --reference"
            )
        product += expected.astype(np.float64).T @ found.astype(np.float64)
    return procrustes(product)


def procrustes(product: Doubles) -> Doubles:
    """The orthogonal U that minimises |A U - B|, from Aᵀ B (D, D)."""
    left, _, right = np.linalg.svd(product)
    return np.asarray(left @ right)


def _relative_noise(
    expected: NDArray[np.float32], found: NDArray[np.float32], basis: Doubles
) -> float:
    """The sum of noise / signal over tokens; expected and found are (tokens, D)."""
    wide = expected.astype(np.float64)
    noise = ((wide @ basis - found) ** 2).sum(axis=1)
    signal = np.maximum((wide**2).sum(axis=1), np.finfo(np.float64).tiny)  # a token may be zero
    return float((noise / signal).sum())
