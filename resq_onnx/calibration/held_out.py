"""A text on which to measure quality: one that the calibration has not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.corpus import (
    PYTHON_DOCS,
    TextTokenizer,
    behind,
    choose_windows,
    load_text,
    tokenise,
)

SEQUENCES: Final = 2
TOKENS: Final = 256
"""Text on which models are compared: enough for two digits of a divergence."""

LOGIT_BYTES: Final = 128_000_000
"""What the logits of that text may take: with large vocabularies it is shorter."""


def text_length(vocabulary: int, max_positions: int) -> int:
    """Tokens of a sequence to compare models on, `SEQUENCES` of them."""
    room = LOGIT_BYTES // (4 * vocabulary * SEQUENCES)
    return max(min(TOKENS, max_positions, room), 2)


def held_out_sequences(
    tokenizer: TextTokenizer,
    samples: int,
    length: int,
    calibrated: Mapping[str, Any],
    opening: Sequence[int] = (),
) -> NDArray[np.int64]:
    """Sequences of Python's documentation, without what a calibration took from it.

    Args:
        tokenizer: A Hugging Face tokenizer.
        samples: Sequences wanted.
        length: Tokens of each, with those that it begins with.
        calibrated: The recipe of the calibration, as `Recipe.to_json` gives it; `bos` tells whether
            its sequences began with `opening`.
        opening: Special tokens with which a text begins.

    Returns:
        Token ids, (samples, length); where the calibration left less than that, parts of what
        it took are among them.
    """
    tokens = tokenise(tokenizer, load_text(PYTHON_DOCS))
    length = min(max(length - len(opening), 1), len(tokens))
    windows = tokens[: len(tokens) // length * length].reshape(-1, length)
    free = np.flatnonzero(
        ~_taken(len(tokens), calibrated, opening)[: windows.size].reshape(windows.shape).any(1)
    )
    if len(free) < samples:
        free = np.arange(len(windows))
    return behind(opening, windows[free[choose_windows(len(free), samples, seed=0)]])


def _taken(tokens: int, calibrated: Mapping[str, Any], opening: Sequence[int]) -> NDArray[np.bool_]:
    """Which tokens of Python's documentation the calibration has seen."""
    taken = np.zeros(tokens, np.bool_)
    length = calibrated["sequence_length"]
    if calibrated.get("bos"):
        length = max(length - len(opening), 1)
    if calibrated["calibration"] == PYTHON_DOCS and tokens >= length:
        windows = taken[: tokens // length * length].reshape(-1, length)  # a view
        windows[choose_windows(len(windows), calibrated["samples"], calibrated["seed"])] = True
    return taken
