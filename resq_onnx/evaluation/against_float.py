"""Compare a quantised model with the float model: predictions and residual stream."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.evaluation.distance import Distance, Logits, compare
from resq_onnx.evaluation.layer_noise import LayerNoise
from resq_onnx.runtime.decoder import decode_logits
from resq_onnx.runtime.taps import TappedDecoder

MOST_DECIBELS: Final = 150.0
"""Upper limit of ratios, beyond float32's precision: equal vectors get it, as JSON has no
infinity."""


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of one model on a text.

    Attributes:
        logits: (B, S, vocabulary).
        stream: The residual stream before the first layer and after each, (layers + 1, B, S, D).
    """

    logits: Logits
    stream: NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """Comparison of a quantised model with the float model.

    Attributes:
        distance: Distance of its logits from the float model's.
        tokens: Number of tokens of the text.
        layer_sqnr_db: Signal-to-quantisation-noise ratio of the residual stream as `LayerNoise`
            defines it, at the embedding and after each layer: layers + 1 numbers in decibels.
    """

    distance: Distance
    tokens: int
    layer_sqnr_db: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for resq.json."""
        distance = dataclasses.asdict(self.distance)
        return {"tokens": self.tokens, **distance, "layer_sqnr_db": list(self.layer_sqnr_db)}


def observe(tapped: TappedDecoder, token_ids: NDArray[np.int64]) -> ModelOutputs:
    """Run an exported model on a text (B, S)."""
    logits, stream, _ = tapped.run(token_ids)
    if tapped.decoder.signature.last_only:
        logits = decode_logits(tapped.decoder, token_ids)
    return ModelOutputs(logits, stream)


def compare_with_float(
    expected: ModelOutputs, found: ModelOutputs, token_ids: NDArray[np.int64]
) -> Quality:
    """Compare a quantised with a float model, in the same basis, by outputs on a text (B, S)."""
    streams = [one.stream.reshape(len(one.stream), token_ids.size, -1) for one in (expected, found)]
    noise = LayerNoise(np.eye(streams[0].shape[-1]))
    noise.add(*streams)
    return Quality(
        distance=compare(expected.logits, found.logits, token_ids),
        tokens=token_ids.size,
        layer_sqnr_db=tuple(min(ratio, MOST_DECIBELS) for ratio in noise.decibels),
    )
