"""Compare a quantised model with the float model: predictions and residual stream."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.evaluation.distance import Distance, DistanceTally, Logits
from resq_onnx.evaluation.layer_noise import LayerNoise
from resq_onnx.evaluation.perplexity import token_losses
from resq_onnx.files.work_folder import flush
from resq_onnx.runtime.decoder import decode_logits
from resq_onnx.runtime.outputs import ModelOutputs
from resq_onnx.runtime.taps import TappedDecoder

MOST_DECIBELS: Final = 150.0
"""Upper limit of ratios, beyond float32's precision: equal vectors get it, as JSON has no
infinity."""


@dataclass(frozen=True)
class Quality:
    """Comparison of a quantised model with the float model.

    Attributes:
        distance: Of its logits from the float model's.
        tokens: Tokens of the text that both have read.
        sqnr_db: Signal over quantisation noise of the residual stream, as `LayerNoise` has it: of
            the embedding, behind the attention of layer 0, behind layer 0, and so on; 2 layers + 1
            numbers in decibels.
    """

    distance: Distance
    tokens: int
    sqnr_db: tuple[float, ...]

    @property
    def layer_sqnr_db(self) -> tuple[float, ...]:
        """The ratios of the embedding and after each layer, layers + 1."""
        return self.sqnr_db[::2]

    @property
    def steepest(self) -> str:
        """Where the noise grows most: the layer, the half of it, and the ratios around it."""
        falls = [before - after for before, after in itertools.pairwise(self.sqnr_db)]
        place = int(np.argmax(falls))
        half = "MLP" if place % 2 else "attention"
        before, after = self.sqnr_db[place : place + 2]
        return f"layer {place // 2}, {half}: {before:.1f} to {after:.1f} dB"

    def to_json(self) -> dict[str, Any]:
        """Plain values, for resq.json."""
        distance = dataclasses.asdict(self.distance)
        return {
            "tokens": self.tokens,
            **distance,
            "layer_sqnr_db": list(self.layer_sqnr_db),
            "attention_sqnr_db": list(self.sqnr_db[1::2]),
        }


def observe(tapped: TappedDecoder, token_ids: NDArray[np.int64], folder: Path) -> ModelOutputs:
    """Run an exported model on a text (B, S), sequence by sequence.

    Args:
        tapped: The model, tapped behind every half layer.
        token_ids: The text.
        folder: Where the logits are kept, in a file without a name: with 262,144 of them to a
            token they would be the largest array of an export.

    Raises:
        OSError: There is no room for them.
    """
    kept: Logits | None = None
    streams = []
    for place, found in enumerate(observations(tapped, token_ids)):
        if kept is None:
            kept = _array_on_disk(folder, (*token_ids.shape, found.logits.shape[-1]))
        kept[place] = found.logits[0]
        streams.append(found.stream)
    assert kept is not None, "a text has sequences"
    return ModelOutputs(kept, np.concatenate(streams, axis=1))


def observations(tapped: TappedDecoder, token_ids: NDArray[np.int64]) -> Iterator[ModelOutputs]:
    """Run an exported model on a text (B, S); yields the outputs of one sequence after another."""
    for ids in token_ids[:, None]:
        yield _observed(tapped, ids)


def _observed(tapped: TappedDecoder, ids: NDArray[np.int64]) -> ModelOutputs:
    logits, stream, _ = tapped.run(ids)
    if tapped.decoder.signature.last_only:
        logits = decode_logits(tapped.decoder, ids)
    return ModelOutputs(logits, stream)


def _array_on_disk(folder: Path, shape: tuple[int, ...]) -> Logits:
    """An array in a file without a name.

    Its room is taken at once: on a full disk, a write to mapped memory would end the process.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, math.prod(shape) * np.float32().itemsize)
        return np.memmap(file, np.float32, "r+", shape=shape)


def compare_with_float(
    expected: ModelOutputs,
    observations: Iterable[ModelOutputs],
    token_ids: NDArray[np.int64],
    basis: NDArray[np.float64] | None = None,
) -> Quality:
    """Compare a quantised with a float model by outputs on a text (B, S).

    Args:
        expected: Of the float model.
        observations: Of the quantised one, sequence by sequence.
        token_ids: The text.
        basis: U (D, D), if the residual stream of the quantised model is that of the float one
            times U.
    """
    width = expected.stream.shape[-1]
    noise, tally = LayerNoise(np.eye(width) if basis is None else basis), DistanceTally()
    remaining = iter(observations)
    for place, ids in enumerate(token_ids):
        found = next(remaining)  # zip() would hold it until the next is there
        pair = expected.logits[place], found.logits[0]
        tally.add(*pair, *(token_losses(logits[:-1], ids[1:]) for logits in pair))
        noise.add(expected.stream[:, place], found.stream[:, 0])
        del found, pair
        for array in (expected.logits, expected.stream):
            flush(array)
    if next(remaining, None) is not None:
        raise ValueError("there are more observations than sequences")
    return Quality(
        distance=tally.distance(),
        tokens=token_ids.size,
        sqnr_db=tuple(min(ratio, MOST_DECIBELS) for ratio in noise.decibels),
    )
