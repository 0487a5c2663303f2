"""How much of a layer's output is quantisation noise, in whatever bases two models have.

The residual streams of a model and of its export differ by noise and by an orthogonal matrix U,
x_model = x_reference U + noise. U is found where there is least noise, at the embedding: the
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
"""Token ids by which two bases are aligned. With 28 for each of SmolLM2's 576 dimensions, an 8-bit
embedding leaves an error in U of some -50 dB; the noise of 4 bits is at -10 to -20."""

IDS_PER_DIMENSION: Final = 8
"""As many are used at least, so that noise averages out in wide models too."""

IDS_AT_A_TIME: Final = 1024


class LayerNoise:
    """Signal-to-quantisation-noise ratios of the residual stream, over windows of text.

    The ratio of a layer is that of the signal |x_reference|² of a token to the noise
    |x_reference U - x_model|², where the noise is taken relative to its own token's signal and then
    averaged over tokens. RMS norm divides each token by its length, so this is what the next layer
    sees; in a ratio of two sums, the first token of a text, a hundred times as long as others in
    many models, would be all that counts.
    """

    def __init__(self, basis: Doubles) -> None:
        """Take U (D, D), from the reference's basis to the model's."""
        self._basis = basis
        self._noise: Any = 0.0
        self._tokens = 0

    def add(self, expected: NDArray[np.float32], found: NDArray[np.float32]) -> None:
        """Take in the streams (layers + 1, tokens, D) of the reference and of the model.

        Raises:
            ResqError: They have different numbers of layers.
        """
        if len(expected) != len(found):
            raise ResqError(
                f"the model has {len(found) - 1} layers and the reference {len(expected) - 1}; "
                f"give the model it was made from as --reference"
            )
        # Layer by layer: float64 of all would be large.
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
    """The orthogonal matrix (D, D) from the reference's residual basis to the model's.

    Args:
        reference: Its residual stream x is found again in the model's as about x U.
        model: The other one.
        vocabulary: Token ids both have; those used are spread over all of them.

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
    """The orthogonal U that makes |A U - B| least, from Aᵀ B (D, D)."""
    left, _, right = np.linalg.svd(product)
    return np.asarray(left @ right)


def _relative_noise(
    expected: NDArray[np.float32], found: NDArray[np.float32], basis: Doubles
) -> float:
    """The sum over tokens of noise over signal; expected and found are (tokens, D)."""
    wide = expected.astype(np.float64)
    noise = ((wide @ basis - found) ** 2).sum(axis=1)
    signal = np.maximum((wide**2).sum(axis=1), np.finfo(np.float64).tiny)  # a token may be zero
    return float((noise / signal).sum())
