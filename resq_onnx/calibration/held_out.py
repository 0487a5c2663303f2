"""Held-out text for measuring quality, which the calibration has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.built_in import PYTHON_DOCS, shares_of
from resq_onnx.calibration.corpus import TextTokenizer, behind, choose_windows, tokenise
from resq_onnx.calibration.texts import load_text

TOKENS: Final = 512
"""Smallest number of tokens on which models are compared: enough for two digits of a divergence,
and to recognise a useless model."""

LENGTH: Final = 256
"""Tokens of each of its sequences, unless the model has fewer positions."""


def text_shape(max_positions: int) -> tuple[int, int]:
    """Number of sequences of the text on which models are compared, and tokens per sequence."""
    length = max(min(LENGTH, max_positions), 2)
    return math.ceil(TOKENS / length), length


def held_out_sequences(
    tokenizer: TextTokenizer,
    samples: int,
    length: int,
    calibrated: Mapping[str, Any],
    opening: Sequence[int] = (),
    trained: int = 0,
) -> NDArray[np.int64]:
    """Sequences of Python's documentation, excluding those that a calibration used.

    Args:
        tokenizer: A Hugging Face tokenizer.
        samples: Sequences wanted.
        length: Tokens of each, including the opening ones.
        calibrated: The recipe of the calibration, as `Recipe.to_json` gives it; `bos` says whether
            its sequences began with `opening`.
        opening: Special tokens with which a text begins.
        trained: Sequences of the same text that may have been trained on.

    Returns:
        Token ids, (samples, length). If calibration and training left less text than that, they
        include parts that the training read, and if need be that the calibration did.
    """
    tokens = tokenise(tokenizer, load_text(PYTHON_DOCS))
    length = min(max(length - len(opening), 1), len(tokens))
    windows = tokens[: len(tokens) // length * length].reshape(-1, length)
    for others in (trained, 0):
        taken = _taken(len(tokens), calibrated, opening, others)[: windows.size]
        free = np.flatnonzero(~taken.reshape(windows.shape).any(1))
        if len(free) >= samples:
            break
    else:
        free = np.arange(len(windows))
    return behind(opening, windows[free[choose_windows(len(free), samples, seed=0)]])


def _taken(
    tokens: int, calibrated: Mapping[str, Any], opening: Sequence[int], trained: int
) -> NDArray[np.bool_]:
    """Which tokens of Python's documentation the calibration or the training has seen."""
    taken = np.zeros(tokens, np.bool_)
    length = calibrated["sequence_length"]
    if calibrated.get("bos"):
        length = max(length - len(opening), 1)
    for samples in (calibrated["samples"], trained):
        read = shares_of(calibrated["calibration"], samples).get(PYTHON_DOCS, 0)
        if read and tokens >= length:
            windows = taken[: tokens // length * length].reshape(-1, length)  # a view
            windows[choose_windows(len(windows), read, calibrated["seed"])] = True
    return taken
