"""Perplexity: exp of the mean negative log-likelihood of a text's tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime import Decoder

ROWS_AT_A_TIME: Final = 32
"""Tokens whose logits are widened to float64 together: 40 MB for a vocabulary of 150,000."""


@dataclass(frozen=True)
class PerplexityResult:
    """How well a model predicts a text.

    Attributes:
        perplexity: exp(nll).
        nll: Mean negative log-likelihood of a token, in nats.
        tokens: Number of tokens that were predicted.
        windows: Number of windows the text was cut into.
    """

    perplexity: float
    nll: float
    tokens: int
    windows: int


def perplexity(
    decoder: Decoder,
    token_ids: Sequence[int] | NDArray[np.int64],
    window: int = 512,
    max_windows: int | None = None,
    token_by_token: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PerplexityResult:
    """Measure perplexity over windows that do not overlap.

    Each window is a text of its own: nothing comes before it, no BOS is added, and its first
    token is not predicted. Tokens after the last whole window are left out; a text shorter
    than one window is one window of its length.

    Args:
        decoder: The model.
        token_ids: The text, tokenised without special tokens.
        window: Tokens per window.
        max_windows: Use only the first windows.
        token_by_token: Run one token a call with the cache, instead of a window a call.
        progress: Called with the number of windows done and of all.

    Raises:
        ResqError: The text or the window has fewer than two tokens, or the model computes only
            the last position's logits and is not to run token by token.
    """
    ids = np.asarray(token_ids, np.int64)
    length = min(window, len(ids))
    if length < 2:
        raise ResqError(
            f"the text has {len(ids)} tokens and a window {window}; both must be at least 2, for "
            f"the first token of a window is not predicted"
        )
    if max_windows is not None and max_windows < 1:
        raise ResqError(f"the number of windows is {max_windows}; it must be at least 1")
    if decoder.signature.last_only and not token_by_token:
        raise ResqError(
            "the model computes logits for the last token of a call only (it was exported with "
            "--logits last), and one pass needs those of all; evaluate it with --token-by-token, "
            "or export it with --logits all"
        )
    windows = ids[: len(ids) // length * length].reshape(-1, length)[:max_windows]
    measure = _decode if token_by_token else _prefill
    total = 0.0
    for done, tokens in enumerate(windows, start=1):
        total += measure(decoder, tokens)
        if progress is not None:
            progress(done, len(windows))
    predicted = len(windows) * (length - 1)
    nll = total / predicted
    return PerplexityResult(_exp(nll), nll, predicted, len(windows))


def negative_log_likelihood(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Sum of -log softmax(logits)[target] over tokens, computed in float64.

    Args:
        logits: (tokens, vocabulary).
        targets: (tokens,).
    """
    total = 0.0
    for start in range(0, len(targets), ROWS_AT_A_TIME):
        rows = logits[start : start + ROWS_AT_A_TIME].astype(np.float64)
        wanted = np.take_along_axis(rows, targets[start : start + len(rows), None], axis=1)
        highest = rows.max(axis=1, keepdims=True)
        log_sums = highest + np.log(np.exp(rows - highest).sum(axis=1, keepdims=True))
        total += float((log_sums - wanted).sum())
    return total


def _prefill(decoder: Decoder, tokens: NDArray[np.int64]) -> float:
    logits, _ = decoder.run(tokens[None, :-1])
    return negative_log_likelihood(logits[0], tokens[1:])


def _decode(decoder: Decoder, tokens: NDArray[np.int64]) -> float:
    state = None
    total = 0.0
    for place in range(len(tokens) - 1):
        logits, state = decoder.run(tokens[None, place : place + 1], state)
        total += negative_log_likelihood(logits[0], tokens[place + 1 : place + 2])
    return total


def _exp(nll: float) -> float:
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf
