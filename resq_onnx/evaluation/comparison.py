"""Compare models on one text: perplexity, and distance from a reference's predictions.

For each window the reference runs once, then each model. Only numbers per token and per layer are
kept of a window. At most two models' logits of one window are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.distance import Distance, DistanceTally
from resq_onnx.evaluation.layer_noise import LayerNoise, align
from resq_onnx.evaluation.models import LanguageModel, LayeredModel
from resq_onnx.evaluation.perplexity import PerplexityResult, token_losses
from resq_onnx.evaluation.windows import Window, Windowing


@dataclass(frozen=True)
class Evaluation:
    """Results of one model.

    Attributes:
        perplexity: Perplexity over all windows.
        distance: Distance from the reference's predictions over all predicted tokens; None without
            a reference.
        layer_sqnr_db: Signal-to-quantisation-noise ratio of the residual stream in dB, at the
            embedding and after each layer; infinite without noise. None if it was not requested.
    """

    perplexity: PerplexityResult
    distance: Distance | None = None
    layer_sqnr_db: tuple[float, ...] | None = None


def evaluate_models(
    models: Sequence[LanguageModel],
    token_ids: Sequence[int] | NDArray[np.int64],
    windowing: Windowing | None = None,
    *,
    reference: LanguageModel | None = None,
    per_layer: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Evaluation]:
    """Measure models on the windows of a text.

    Args:
        models: The models; the reference may be among them and still runs only once per window.
        token_ids: The text, tokenised without special tokens.
        windowing: How the text is cut into windows.
        reference: The model from which distances are measured.
        per_layer: Also measure the noise of each layer's output. The models and the reference
            must then be `LayeredModel`s.
        progress: Called with the number of finished runs of a window and their total.

    Raises:
        ResqError: The text and the windowing give no windows, or a model does not have the
            vocabulary or the sizes of the reference.
    """
    windows = (windowing or Windowing()).cut(token_ids)
    tallies = [_Tally(model, reference) for model in models]
    running = [] if reference is None else [reference]
    running += [model for model in models if model is not reference]
    done = 0

    def run(model: LanguageModel, window: Window) -> _Outputs:
        nonlocal done
        outputs = _run(model, window, per_layer)
        done += 1
        if progress is not None:
            progress(done, len(running) * len(windows))
        return outputs

    def measure(window: Window) -> None:  # a function, so that outputs are freed between windows
        expected = None if reference is None else run(reference, window)
        for tally in tallies:
            known = expected if tally.model is reference else None
            tally.add(known or run(tally.model, window), expected)

    for window in windows:
        measure(window)
    return [tally.evaluation(len(windows)) for tally in tallies]


@dataclass(frozen=True)
class _Outputs:
    """Outputs of a model for the N tokens that a window predicts."""

    losses: NDArray[np.float64]  # (N,)
    logits: NDArray[np.float32]  # (N, vocabulary)
    layers: NDArray[np.float32] | None  # (layers + 1, N, D)


def _run(model: LanguageModel, window: Window, per_layer: bool) -> _Outputs:
    rows, layers = slice(window.first - 1, None), None
    if per_layer:
        logits, layers = cast(LayeredModel, model).logits_and_layers(window.read[None])
        layers = layers[:, 0, rows]
    else:
        logits = model.logits(window.read[None])
    logits = logits[0, rows]
    return _Outputs(token_losses(logits, window.targets), logits, layers)


class _Tally:
    """Sums over windows for one model."""

    def __init__(self, model: LanguageModel, reference: LanguageModel | None) -> None:
        self.model = model
        self._reference = reference
        self._losses: list[NDArray[np.float64]] = []
        self._distance = DistanceTally()
        self._noise: LayerNoise | None = None

    def add(self, found: _Outputs, expected: _Outputs | None) -> None:
        self._losses.append(found.losses)
        if expected is None:
            return
        vocabulary, wanted = found.logits.shape[1], expected.logits.shape[1]
        if vocabulary != wanted:
            raise ResqError(
                f"a model has a vocabulary of {vocabulary} and the reference one of {wanted}; give "
                f"the model it was made from as --reference"
            )
        self._distance.add(expected.logits, found.logits, expected.losses, found.losses)
        if expected.layers is not None and found.layers is not None:
            if self._noise is None:
                self._noise = LayerNoise(self._basis(expected.layers.shape[-1], vocabulary))
            self._noise.add(expected.layers, found.layers)

    def _basis(self, width: int, vocabulary: int) -> NDArray[np.float64]:
        if self.model is self._reference:
            return np.eye(width)
        reference, model = cast(LayeredModel, self._reference), cast(LayeredModel, self.model)
        return align(reference, model, vocabulary)

    def evaluation(self, windows: int) -> Evaluation:
        result = PerplexityResult.of(np.concatenate(self._losses), windows)
        if self._reference is None:
            return Evaluation(result)
        layers = None if self._noise is None else self._noise.decibels
        return Evaluation(result, self._distance.distance(), layers)
