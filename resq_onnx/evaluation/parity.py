"""Whether two ways to compute the same logits agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.perplexity import negative_log_likelihood
from resq_onnx.runtime.session import Decoder

Logits = NDArray[np.float32]

FLOAT_TOLERANCE: Final = 1e-3
"""Largest difference of logits over the largest logit, float model against PyTorch.

Float32 sums of a few thousand products in another order, through tens of layers, differ by some
1e-5; a wrong fold differs by more than 1e-1.
"""

DECODE_TOLERANCE: Final = 0.01
"""Largest relative difference of perplexity, cached decode against prefill, quantised model.

Rounding is discontinuous: the last bit of a float sum, whose order depends on the number of rows,
can move an integer by one, so the logits of both ways are not equal to float precision. A wrong
mask, position or record changes the perplexity by far more than 1 %.
"""


@dataclass(frozen=True)
class Agreement:
    """How near two sets of logits are, over all positions.

    Attributes:
        relative_error: Largest difference over the largest absolute logit.
        kl_divergence: Mean Kullback-Leibler divergence, nats per token.
        top1_agreement: Share of positions with the same most likely token.
        perplexity_ratio: Perplexity of the second over that of the first, on the same tokens.
    """

    relative_error: float
    kl_divergence: float
    top1_agreement: float
    perplexity_ratio: float


def compare(expected: Logits, found: Logits, token_ids: NDArray[np.int64]) -> Agreement:
    """Compare logits (B, S, vocabulary) of token ids (B, S)."""
    scale = float(np.abs(expected).max()) or 1.0
    log_p, log_q = (_log_softmax(logits) for logits in (expected, found))
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    losses = [
        sum(
            negative_log_likelihood(row[:-1], ids[1:])
            for row, ids in zip(logits, token_ids, strict=True)
        )
        for logits in (expected, found)
    ]
    predicted = token_ids[:, 1:].size
    return Agreement(
        relative_error=float(np.abs(found - expected).max()) / scale,
        kl_divergence=float(divergence.mean()),
        top1_agreement=float((expected.argmax(-1) == found.argmax(-1)).mean()),
        perplexity_ratio=float(np.exp((losses[1] - losses[0]) / max(predicted, 1))),
    )


def decode_logits(decoder: Decoder, token_ids: NDArray[np.int64]) -> Logits:
    """Logits of token ids (B, S), one token at a time through the cache: (B, S, vocabulary)."""
    state, steps = None, []
    for position in range(token_ids.shape[1]):
        logits, state = decoder.run(token_ids[:, position : position + 1], state)
        steps.append(logits)
    return np.concatenate(steps, axis=1)


def check_float_parity(expected: Logits, found: Logits, token_ids: NDArray[np.int64]) -> Agreement:
    """Refuse a float graph whose logits are not PyTorch's.

    Raises:
        ResqError: They differ by more than `FLOAT_TOLERANCE`.
    """
    agreement = compare(expected, found, token_ids)
    if not agreement.relative_error <= FLOAT_TOLERANCE:
        raise ResqError(
            f"parity: the logits of the rotated float graph differ from PyTorch's by "
            f"{agreement.relative_error:.2e} of the largest one, more than {FLOAT_TOLERANCE:g}; "
            "nothing was written; please report this model"
        )
    return agreement


def check_decode_parity(decoder: Decoder, token_ids: NDArray[np.int64]) -> Agreement:
    """Refuse a graph whose cached decode does not agree with its own prefill.

    Raises:
        ResqError: Their perplexities on `token_ids` differ by more than `DECODE_TOLERANCE`,
            or are not finite.
    """
    prefill, _ = decoder.run(token_ids)
    agreement = compare(prefill, decode_logits(decoder, token_ids), token_ids)
    if not abs(agreement.perplexity_ratio - 1.0) <= DECODE_TOLERANCE:
        raise ResqError(
            f"parity: token by token, the perplexity is {agreement.perplexity_ratio:.4f} times "
            f"that of one pass, more than {DECODE_TOLERANCE:.0%} off; nothing was written; "
            "please report this model"
        )
    return agreement


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normaliser = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(shifted - normaliser)
