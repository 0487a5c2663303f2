"""What quantisation did to a model: its predictions and its residual stream, against float's."""

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
"""More than float32 can tell apart: what stands for equal vectors, for JSON has no infinity."""


@dataclass(frozen=True)
class Observed:
    """What one model makes of a text.

    Attributes:
        logits: (B, S, vocabulary).
        stream: The residual stream before the first layer and after each, (layers + 1, B, S, D).
    """

    logits: Logits
    stream: NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """How near a quantised model is to the float model.

    Attributes:
        distance: Of its logits from the float model's.
        tokens: Tokens of the text that both have read.
        layer_sqnr_db: Signal over quantisation noise of the residual stream, as `LayerNoise` has
            it, of the embedding and after each layer: layers + 1 numbers in decibels.
    """

    distance: Distance
    tokens: int
    layer_sqnr_db: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for resq.json."""
        distance = dataclasses.asdict(self.distance)
        return {"tokens": self.tokens, **distance, "layer_sqnr_db": list(self.layer_sqnr_db)}


def observe(tapped: TappedDecoder, token_ids: NDArray[np.int64]) -> Observed:
    """Run an exported model on a text (B, S)."""
    logits, stream, _ = tapped.run(token_ids)
    if tapped.decoder.signature.last_only:
        logits = decode_logits(tapped.decoder, token_ids)
    return Observed(logits, stream)


def compare_with_float(
    expected: Observed, found: Observed, token_ids: NDArray[np.int64]
) -> Quality:
    """Compare what a float and a quantised model, in the same basis, made of a text (B, S)."""
    streams = [one.stream.reshape(len(one.stream), token_ids.size, -1) for one in (expected, found)]
    noise = LayerNoise(np.eye(streams[0].shape[-1]))
    noise.add(*streams)
    return Quality(
        distance=compare(expected.logits, found.logits, token_ids),
        tokens=token_ids.size,
        layer_sqnr_db=tuple(min(ratio, MOST_DECIBELS) for ratio in noise.decibels),
    )
