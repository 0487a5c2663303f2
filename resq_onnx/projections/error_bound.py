"""Bound of the error of a quantised activation, from the energies of its parts.

Follows the theorem of ResQ (arXiv 2412.14363, section 4), which bounds the norm of the error of a
symmetric quantiser. Here it is the squared error of the asymmetric quantiser that the operators
use: squares can be summed over parts and sites, and PCA minimises them for every rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from resq_onnx.recipe import BitSplit

HALVINGS: Final = 40
"""Bisections of the interval that contains the root: a relative precision of 1e-12."""

Block = tuple[int, float]
"""Coefficients that share their energy evenly: their number, and their total energy E |x|²."""


def error_bound(split: BitSplit, low_energy: float, high_energy: float) -> float:
    """A bound of E |x - Q(x)|² of a token that is quantised in two parts.

    Each part is randomly rotated as a whole. Its bound is `part_bound` of one block, which is
    2 (ln 2d + 1) / (2ᵇ - 1)² · E for d coefficients in b bits and of energy E.

    If the low part has fewer bits, its factor is the larger one, and the sum grows with its
    energy. Among all subspaces of one rank, that of the largest eigenvalues (PCA) leaves the
    least energy in the low part, so PCA has the smallest bound.

    Args:
        split: Widths and bits of the parts.
        low_energy: E |x_low|²; the trace of the low part's second moment, per token.
        high_energy: The same for the high part.
    """
    low = part_bound([(split.low, low_energy)], split.low_bits)
    return low + part_bound([(split.high, high_energy)], split.high_bits)


def part_bound(blocks: Sequence[Block], bits: int) -> float:
    """A bound of E |x - Q(x)|² of one part whose blocks are randomly rotated.

    The range is at most twice the largest magnitude in the part, the step is range / (2ᵇ - 1), and
    the error of each of the part's d coefficients is at most half a step. So the squared error is
    at most d · max x² / (2ᵇ - 1)². `largest_square` bounds the mean of that maximum.
    """
    blocks = [(width, energy) for width, energy in blocks if width and energy > 0]
    levels = float((1 << bits) - 1)
    return sum(width for width, _ in blocks) * largest_square(blocks) / levels**2


def largest_square(blocks: Sequence[Block]) -> float:
    """A bound of the mean of the largest x² among the coefficients of all blocks.

    A randomly rotated block of d coefficients and energy E has sub-Gaussian coefficients of
    variance v = E / d. The probability that any coefficient exceeds √u is at most
    p(u) = Σ 2 d exp(-u/2v), summed over the blocks. The mean of the largest square is at most the
    integral of min(1, p(u)), which for one block is 2 v (ln 2d + 1).
    """
    if not blocks:
        return 0.0
    variances = [(width, energy / width) for width, energy in blocks]
    # p(low) >= 1, as a single block reaches it; p(high) <= 1, as if all had the largest variance.
    low = max(2 * variance * math.log(2 * width) for width, variance in variances)
    high = 2 * max(v for _, v in variances) * math.log(2 * sum(width for width, _ in variances))
    for _ in range(HALVINGS if len(blocks) > 1 else 0):
        middle = (low + high) / 2
        chance = sum(2 * width * math.exp(-middle / (2 * v)) for width, v in variances)
        low, high = (middle, high) if chance > 1 else (low, middle)
    tail = sum(2 * width * 2 * v * math.exp(-low / (2 * v)) for width, v in variances)
    return low + tail
