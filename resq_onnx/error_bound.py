"""How large the error of a quantised activation can be, from the energy of its two parts alone.

Follows the theorem of ResQ (arXiv 2412.14363, section 4), which bounds the norm of the error of a
symmetric quantiser. Here it is the squared error, and that of the asymmetric quantiser that the
operators use: squares of parts and of sites add up, and are least for PCA whatever the rank.
"""

from __future__ import annotations

import math

from resq_onnx.recipe import BitSplit


def error_bound(split: BitSplit, low_energy: float, high_energy: float) -> float:
    """A bound of E |x - Q(x)|² of a token that is quantised in two parts.

    The sum over both parts, of d coefficients in b bits and of energy E each, of

        2 (ln 2d + 1) / (2ᵇ - 1)² · E

    A randomly rotated part of norm n has coefficients that are sub-Gaussian of variance
    n² / d. The largest square among d of these is 2 (ln 2d + 1) n² / d in the mean or less: the
    integral over u of min(1, 2d exp(-u/2)), the chance that one exceeds u. The range is at most
    twice the largest magnitude, a step is range / (2ᵇ - 1), a coefficient is off by half a step
    at most, and there are d of them.

    The weight of the low part is the larger one where it has fewer bits. The bound then grows
    with the low part's energy, and among all subspaces of one rank that of the largest
    eigenvalues, PCA's, leaves the low part the least: so PCA's bound is the least.

    Args:
        split: Widths and bits of the parts.
        low_energy: E |x_low|²; the trace of the low part's second moment, per token.
        high_energy: The same of the high part.
    """
    low = error_per_energy(split.low, split.low_bits) * low_energy
    return low + error_per_energy(split.high, split.high_bits) * high_energy


def error_per_energy(width: int, bits: int) -> float:
    """The bound's factor of one part's energy, 2 (ln 2d + 1) / (2ᵇ - 1)²; 0 without a part."""
    if width == 0:
        return 0.0
    levels = float((1 << bits) - 1)
    return 2 * (math.log(2 * width) + 1) / levels**2
