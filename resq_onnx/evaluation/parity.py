"""Whether two ways to compute the same logits agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.perplexity import token_differences, token_losses
from resq_onnx.runtime.decoder import Decoder

Logits = NDArray[np.float32]

FLOAT_TOLERANCE: Final = 1e-3
"""Largest difference of logits over the largest logit, float model against PyTorch.

Float32 sums of a few thousand products in another order, through tens of layers, differ by some
1e-5; a wrong fold differs by more than 1e-1.
"""

DECODE_TOLERANCE: Final = 0.01
"""Largest relative difference of perplexity, cached decode against prefill, quantised model."""

STANDARD_ERRORS: Final = 3.0
"""Standard errors that a difference of perplexity may have beyond `DECODE_TOLERANCE`.

Rounding is discontinuous: the last bit of a float sum, whose order depends on the number of rows,
can move an integer by one. Decode and prefill are then two draws of the same rounding noise,
equally good but up to some 0.1 nats apart at a token, and on a short text that shows.
"""

DIVERGENCE_FLOOR: Final = 0.05
"""Mean divergence, nats, of decode from prefill that is always allowed: some rounding noise."""


@dataclass(frozen=True)
class Agreement:
    """How near two sets of logits are, over all positions.

    Attributes:
        relative_error: Largest difference over the largest absolute logit.
        kl_divergence: Mean Kullback-Leibler divergence, nats per token.
        top1_agreement: Share of positions with the same most likely token.
        perplexity_ratio: Perplexity of the second over that of the first, on the same tokens.
        standard_error: Of the logarithm of that ratio, from the spread over the tokens.
    """

    relative_error: float
    kl_divergence: float
    top1_agreement: float
    perplexity_ratio: float
    standard_error: float = 0.0


def compare(expected: Logits, found: Logits, token_ids: NDArray[np.int64]) -> Agreement:
    """Compare logits (B, S, vocabulary) of token ids (B, S)."""
    scale = float(np.abs(expected).max()) or 1.0
    predictions = token_differences(_rows(expected), _rows(found))
    targets = token_ids[:, 1:].ravel()
    before, after = (token_losses(_rows(one[:, :-1]), targets) for one in (expected, found))
    differences = after - before  # (B * (S - 1),), nats
    spread = float(differences.std()) if differences.size else 0.0
    return Agreement(
        relative_error=float(np.abs(found - expected).max()) / scale,
        kl_divergence=float(predictions.divergence.mean()),
        top1_agreement=float(predictions.same_choice.mean()),
        perplexity_ratio=float(np.exp(differences.mean())) if differences.size else 1.0,
        standard_error=spread / max(differences.size, 1) ** 0.5,
    )


def decode_logits(decoder: Decoder, token_ids: NDArray[np.int64]) -> Logits:
    """Logits of token ids (B, S), one token at a time through the cache: (B, S, vocabulary)."""
    state, steps = None, []
    for position in range(token_ids.shape[1]):
        logits, state = decoder.run(token_ids[:, position : position + 1], state)
        steps.append(logits)
    return np.concatenate(steps, axis=1)


def prefill_logits(decoder: Decoder, token_ids: NDArray[np.int64]) -> Logits:
    """Logits of token ids (B, S), computed without a cache: (B, S, vocabulary).

    A graph that computes only the last position's runs once for each prefix.
    """
    if not decoder.signature.last_only:
        return decoder.run(token_ids)[0]
    ends = range(1, token_ids.shape[1] + 1)
    return np.concatenate([decoder.run(token_ids[:, :end])[0] for end in ends], axis=1)


def check_float_parity(
    expected: Logits, found: Logits, token_ids: NDArray[np.int64], reference: str = "PyTorch"
) -> Agreement:
    """Refuse a float graph whose logits are not those of the model it was made from.

    Args:
        expected: Logits of that model.
        found: Logits of the graph.
        token_ids: A text, (B, S).
        reference: Who computed the expected ones, for the message.

    Raises:
        ResqError: They differ by more than `FLOAT_TOLERANCE`.
    """
    agreement = compare(expected, found, token_ids)
    if not agreement.relative_error <= FLOAT_TOLERANCE:
        raise ResqError(
            f"parity: the logits of the rotated float graph differ from {reference}'s by "
            f"{agreement.relative_error:.2e} of the largest one, more than {FLOAT_TOLERANCE:g}; "
            "nothing was written; please report this model"
        )
    return agreement


def check_decode_parity(
    decoder: Decoder, token_ids: NDArray[np.int64], float_logits: Logits | None = None
) -> Agreement:
    """Refuse a graph whose cached decode does not agree with its own prefill.

    Args:
        decoder: The quantised model.
        token_ids: A text, (B, S).
        float_logits: The float model's logits of it, if known.

    Raises:
        ResqError: Their perplexities differ by more than `DECODE_TOLERANCE` and
            `STANDARD_ERRORS`, or are not finite; or decode is further away from prefill than
            prefill is from the float model.
    """
    prefill = prefill_logits(decoder, token_ids)
    agreement = compare(prefill, decode_logits(decoder, token_ids), token_ids)
    allowed = DECODE_TOLERANCE + STANDARD_ERRORS * agreement.standard_error
    if not abs(float(np.log(agreement.perplexity_ratio))) <= allowed:
        raise ResqError(
            f"parity: token by token, the perplexity is {agreement.perplexity_ratio:.4f} times "
            f"that of one pass, more than {allowed:.1%} off; nothing was written; please report "
            "this model"
        )
    if float_logits is not None:
        quantisation = compare(float_logits, prefill, token_ids).kl_divergence
        if not agreement.kl_divergence <= max(DIVERGENCE_FLOOR, quantisation):
            raise ResqError(
                f"parity: token by token, the model is {agreement.kl_divergence:.3f} nats away "
                f"from one pass, and one pass {quantisation:.3f} from the float model; nothing "
                "was written; please report this model"
            )
    return agreement


def _rows(logits: Logits) -> Logits:
    return logits.reshape(-1, logits.shape[-1])
