"""Sampling of the next token: greedy, or by temperature, top-k, min-p and top-p.

Divide the logits by the temperature, take their softmax, keep the likeliest tokens that together
have a probability of top-p (Holtzman et al., "The Curious Case of Neural Text Degeneration",
arXiv 1904.09751), and draw one of them by its probability. Before top-p, top-k keeps a number of
tokens, and min-p those with a share of the likeliest one's probability (Nguyen et al., "Turning Up
the Heat: Min-p Sampling", arXiv 2407.01082). The computation is in float64 and uses
one random number per token, so that the same seed and the same logits give the same tokens.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError

FLOORS: Final = (1e-2, 1e-4, 1e-6, 0.0)
"""Thresholds for the tokens to sort, relative to the weight of the likeliest one: the first
threshold with enough weight above it is used. Sorting a whole vocabulary takes longer than running
a small model, and few texts need more than the first hundred tokens."""

BLOCK: Final = 256
"""Tokens whose weights are summed together."""

SEEDS: Final = 2**64
LEAST_SEED: Final = -(2**63)
"""Clients of OpenAI's API may send any integer of 64 bits."""


class Sampler:
    """Chooses tokens from logits, one at a time."""

    def __init__(
        self,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        top_k: int = 0,
        min_p: float = 0.0,
    ) -> None:
        """Begin a sequence of draws.

        Args:
            temperature: 0 always takes the likeliest token (the first of equals).
            top_p: Draw only among the fewest likeliest tokens that together have this probability.
            seed: Seeds the draws; a number of 64 bits, of which -1 is that of 2**64 - 1.
            top_k: Draw only among so many of the likeliest tokens; 0 for all.
            min_p: Draw only among tokens with this share of the likeliest one's probability.

        Raises:
            ResqError: A number is out of its range.
        """
        if not 0.0 <= temperature < np.inf:
            raise ResqError(f"temperature is {temperature}; it must be 0 or more")
        if not 0.0 < top_p <= 1.0:
            raise ResqError(f"top-p is {top_p}; it must be more than 0 and at most 1")
        if not LEAST_SEED <= seed < SEEDS:
            raise ResqError(f"seed is {seed}; it must be from -2**63 to 2**64 - 1")
        if top_k < 0:
            raise ResqError(f"top-k is {top_k}; it must be 0 or more")
        if not 0.0 <= min_p <= 1.0:
            raise ResqError(f"min-p is {min_p}; it must be from 0 to 1")
        self._temperature = temperature
        self._top_p = top_p
        self._top_k = top_k
        self._min_p = min_p
        self._random = np.random.default_rng(seed % SEEDS)

    def choose(self, logits: NDArray[Any]) -> int:
        """Choose a token from logits, (vocabulary,)."""
        if self._temperature == 0.0:
            return int(logits.argmax())
        weights = softmax_weights(logits, self._temperature)
        kept = None  # all
        if self._top_k or self._min_p:
            kept = highest(weights, self._top_k, self._min_p)
            weights = weights[kept]
        if self._top_p < 1.0:
            order = likeliest(weights, self._top_p)
            kept, weights = order if kept is None else kept[order], weights[order]
        drawn = draw(weights, self._random.random())
        return drawn if kept is None else int(kept[drawn])


def softmax_weights(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """The weights of tokens, (vocabulary,), of which the largest is 1.

    They are computed in place: touching the memory of a new array takes longer than filling it.
    """
    weights = logits.astype(np.float64)
    weights -= weights.max()
    with np.errstate(over="ignore"):  # a tiny temperature overflows to minus infinity, as intended
        weights /= temperature
    return np.exp(weights, out=weights)


def draw(weights: NDArray[np.float64], share: float) -> int:
    """The token at which the running sum of the weights passes a share of their total.

    A running sum adds one number after the other, so it is computed for blocks of tokens, and then
    within one of them alone: a third of the time of the softmax instead of more than all of it.

    Args:
        weights: (tokens,), not negative, and not all 0.
        share: From 0 to less than 1.

    Returns:
        Its index; never that of a token of weight 0.
    """
    ends = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK)).cumsum()
    # A product of two floats may be rounded up to the end of the last interval.
    point = min(share * ends[-1], np.nextafter(ends[-1], 0.0))
    block = int(ends.searchsorted(point, side="right"))
    inside = weights[block * BLOCK : (block + 1) * BLOCK]
    sums = (ends[block - 1] if block else 0.0) + inside.cumsum()
    # Added in another order, the block's weights may end just before the point.
    last = np.flatnonzero(inside)[-1]
    return block * BLOCK + min(int(sums.searchsorted(point, side="right")), int(last))


def highest(weights: NDArray[np.float64], count: int, share: float) -> NDArray[np.int64]:
    """The tokens of the greatest weights, in the order of the vocabulary.

    Args:
        weights: (vocabulary,), not negative; the largest is 1.
        count: How many at most, the first of equal ones; 0 for any number.
        share: The least weight.
    """
    least = share
    if 0 < count < len(weights):
        least = max(least, float(np.partition(weights, -count)[-count]))
    found = np.flatnonzero(weights >= least)
    if 0 < count < len(found):
        order = np.argsort(-weights[found], kind="stable")[:count]
        found = np.sort(found[order])
    return found


def likeliest(weights: NDArray[np.float64], share: float) -> NDArray[np.int64]:
    """The fewest tokens that together have a share of all weight, likeliest first.

    The token that crosses the share is included, so there is always one. Equal weights keep their
    order.

    Args:
        weights: (vocabulary,), not negative; the largest is 1.
        share: More than 0, at most 1.
    """
    needed = share * weights.sum()
    for floor in FLOORS:
        found = np.flatnonzero(weights >= floor)
        kept = weights[found]
        if floor and kept.sum() < needed:
            continue
        order = np.argsort(-kept, kind="stable")
        sums = kept[order].cumsum()
        if sums[-1] >= needed:
            break
    return found[order[: int(sums.searchsorted(needed)) + 1]]
