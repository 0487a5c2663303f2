"""Parity checks: float graph against PyTorch, and cached decode against prefill."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.distance import Distance, Logits, compare
from resq_onnx.runtime.decoder import Decoder, decode_logits, prefill_logits

FLOAT_TOLERANCE: Final = 1e-3
"""Largest difference of logits over the largest logit, float model against PyTorch.

Float32 sums of a few thousand products in another order, through tens of layers, differ by about
1e-5; a wrong fold differs by more than 1e-1.
"""

DECODE_TOLERANCE: Final = 0.01
"""Largest relative difference of perplexity of the quantised model, cached decode to prefill."""

STANDARD_ERRORS: Final = 3.0
"""Standard errors by which a difference of perplexity may exceed `DECODE_TOLERANCE`.

Rounding is discontinuous: the last bit of a float sum, whose order depends on the number of rows,
can change an integer by one. Decode and prefill are then two draws of the same rounding noise,
equally good but up to about 0.1 nats apart per token, which is visible on a short text.
"""

DIVERGENCE_FLOOR: Final = 0.05
"""Mean divergence of decode from prefill that is always allowed, in nats: rounding noise."""


def check_float_parity(
    expected: Logits, found: Logits, token_ids: NDArray[np.int64], reference: str = "PyTorch"
) -> Distance:
    """Refuse a float graph whose logits differ from those of the original model.

    Args:
        expected: Logits of the original model.
        found: Logits of the graph.
        token_ids: A text, (B, S).
        reference: Source of the expected logits, for the message.

    Raises:
        ResqError: The logits differ by more than `FLOAT_TOLERANCE`.
    """
    distance = compare(expected, found, token_ids)
    if not distance.relative_error <= FLOAT_TOLERANCE:
        raise ResqError(
            f"parity: the logits of the rotated float graph differ from {reference}'s by "
            f"{distance.relative_error:.2e} of the largest one, more than {FLOAT_TOLERANCE:g}; "
            "nothing was written; please report this model"
        )
    return distance


def check_decode_parity(
    decoder: Decoder, token_ids: NDArray[np.int64], float_logits: Logits | None = None
) -> Distance:
    """Refuse a graph whose cached decode does not agree with its own prefill.

    Args:
        decoder: The quantised model.
        token_ids: A text, (B, S).
        float_logits: The float model's logits on the text, if known.

    Raises:
        ResqError: The perplexities differ by more than `DECODE_TOLERANCE` and
            `STANDARD_ERRORS`, or are not finite; or decode is further from prefill than
            prefill is from the float model.
    """
    prefill = prefill_logits(decoder, token_ids)
    distance = compare(prefill, decode_logits(decoder, token_ids), token_ids)
    allowed = DECODE_TOLERANCE + STANDARD_ERRORS * distance.log_error
    if not abs(float(np.log(distance.perplexity_ratio))) <= allowed:
        raise ResqError(
            f"parity: token by token, the perplexity is {distance.perplexity_ratio:.4f} times "
            f"that of one pass, more than {allowed:.1%} off; nothing was written; please report "
            "this model"
        )
    if float_logits is not None:
        quantisation = compare(float_logits, prefill, token_ids).kl_divergence
        if not distance.kl_divergence <= max(DIVERGENCE_FLOOR, quantisation):
            raise ResqError(
                f"parity: token by token, the model is {distance.kl_divergence:.3f} nats away "
                f"from one pass, and one pass {quantisation:.3f} from the float model; nothing "
                "was written; please report this model"
            )
    return distance
