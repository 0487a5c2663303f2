"""Allocate bits by data: ranks of the high parts by site and layer, for average bits per weight.

The allocation minimises the sum over all sites of

    weights of the site · error bound with its rank / error bound with the recipe's fractions

under the budget. The division makes sites comparable: the size of an activation, and the share of
its energy in a few constant directions, say little about how much its error matters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.projections.error_bound import Block, part_bound
from resq_onnx.projections.hadamard import outer_order
from resq_onnx.projections.splits import LINEAR_SITES, Splits, uniform_splits, weight_counts
from resq_onnx.recipe import BitSplit, Recipe

STEPS: Final = 32
"""Ranks are multiples of 1/32 of a width, up to half of it."""

LARGEST_OUTER_ORDER: Final = 128
"""Limit for the rotations before down_proj: multiplications per coefficient at run time."""

RANKS_OF_STREAM: Final = 2
"""Number of different ranks that the residual stream may have. Its basis is the same for all
layers, so each rank cuts the low part of the layers with lower ranks into blocks that are rotated
separately, and the block with the most energy determines the range of all."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Energies:
    """E x_i² per token of every coefficient, in the bases before rotation; low part first.

    Attributes:
        attention: (layers, D), of the residual stream as read by q/k/v.
        mlp: (layers, D), of the residual stream as read by gate and up.
        attention_out: (layers, heads, d), of the input of o_proj.
        down: (layers, I), of the input of down_proj, ascending.
    """

    attention: Array
    mlp: Array
    attention_out: Array
    down: Array


@dataclass(frozen=True)
class Candidates:
    """Candidate splits of one matrix of one layer.

    Attributes:
        weights: Number of its weights.
        splits: By ascending rank; the first takes the fewest bits.
        bounds: Contribution of each split to the sum that is minimised.
    """

    weights: int
    splits: tuple[BitSplit, ...]
    bounds: tuple[float, ...]

    def bits(self, choice: int) -> float:
        """Bits of all its weights with the split `choice`."""
        return self.weights * self.splits[choice].mean_bits


def choose_splits(recipe: Recipe, layout: ModelLayout, energies: Energies) -> Splits:
    """The splits with the smallest error bound for at most `recipe.target_bits` on average.

    The cache's records keep the recipe's fraction, and a head's rank before o_proj is at most
    that of its values in the cache.

    Raises:
        ResqError: No choice is within the budget, or a fraction does not divide its width.
    """
    assert recipe.target_bits is not None
    uniform = uniform_splits(recipe, layout)
    budget = recipe.target_bits * layout.num_layers * sum(weight_counts(layout).values())
    best: tuple[float, list[BitSplit]] | None = None
    fixed = {
        site: _candidates(site, layout, energies, uniform, ranks)
        for site, ranks in (
            ("attention_out", _ranks(layout.head_dim, uniform.record.high)),
            ("down", _down_ranks(uniform.down[0])),
        )
    }
    for ranks in _stream_ranks(layout.hidden_size):
        stream = {
            site: _candidates(site, layout, energies, uniform, ranks)
            for site in ("attention", "mlp")
        }
        every = [one for site in LINEAR_SITES for one in (stream | fixed)[site]]
        chosen = allocate(every, budget)
        if chosen is not None:
            pairs = list(zip(every, chosen, strict=True))
            total = sum(one.bounds[choice] for one, choice in pairs)
            if best is None or total < best[0]:
                best = total, [one.splits[choice] for one, choice in pairs]
    if best is None:
        raise ResqError(f"target_bits {recipe.target_bits:g} is too small for any rank; raise it")
    layers = layout.num_layers
    attention, mlp, attention_out, down = (
        tuple(best[1][start : start + layers]) for start in range(0, 4 * layers, layers)
    )
    return Splits(attention, mlp, attention_out, down, uniform.record)


def allocate(candidates: Sequence[Candidates], budget: float) -> list[int] | None:
    """Choose one split per matrix, greedily, for a small sum of bounds within the budget.

    Each matrix starts with its first split. The step to a larger rank that lowers the sum most per
    bit is taken first, and so on until no step fits. Only choices on the lower convex hull of a
    matrix's bounds over bits are considered, so the gain per bit decreases from step to step. As
    long as all steps fit, no other choice with the same number of bits has a smaller sum.

    Returns:
        Index of each matrix's split; None if the first splits exceed the budget.
    """
    spent = sum(one.bits(0) for one in candidates)
    if spent > budget:
        return None
    chosen = [0] * len(candidates)
    steps = [
        (gain, matrix, choice)
        for matrix, one in enumerate(candidates)
        for gain, choice in _steps_down_the_hull(one)
    ]
    stopped = set()
    for _, matrix, choice in sorted(steps, key=lambda step: -step[0]):
        one = candidates[matrix]
        cost = one.bits(choice) - one.bits(chosen[matrix])
        if matrix in stopped or spent + cost > budget:
            stopped.add(matrix)
            continue
        spent += cost
        chosen[matrix] = choice
    return chosen


def _steps_down_the_hull(one: Candidates) -> list[tuple[float, int]]:
    """Steps along the hull from the first split: decrease of the bound per bit, and new index."""
    steps: list[tuple[float, int]] = []
    here = 0
    while True:
        gains = [
            ((one.bounds[here] - one.bounds[there]) / (one.bits(there) - one.bits(here)), there)
            for there in range(here + 1, len(one.splits))
        ]
        gain, there = max(gains, default=(0.0, here))
        if gain <= 0.0:
            return steps
        steps.append((gain, there))
        here = there


def _candidates(
    site: str, layout: ModelLayout, energies: Energies, uniform: Splits, ranks: Sequence[int]
) -> list[Candidates]:
    """The candidates of each layer's matrix at a site."""
    weights = weight_counts(layout)[site]
    found = []
    for layer in range(layout.num_layers):
        usual = getattr(uniform, site)[layer]
        splits = tuple(
            replace(usual, low=usual.width - rank, high=rank) for rank in sorted(set(ranks))
        )
        shared = {"attention_out": [uniform.record], "down": []}.get(site, splits)
        groups = np.atleast_2d(getattr(energies, site)[layer])
        scale = weights / (_bound(groups, usual, [usual]) or 1.0)
        bounds = tuple(scale * _bound(groups, split, [split, *shared]) for split in splits)
        found.append(Candidates(weights, splits, bounds))
    return found


def _bound(groups: Array, split: BitSplit, edges: Iterable[BitSplit]) -> float:
    """The error bound of groups of coefficients (groups, width), each rotated between edges."""
    cuts = sorted({0, split.width, *(other.low for other in edges)})
    total = 0.0
    for energies in groups:
        low: list[Block] = []
        high: list[Block] = []
        for start, end in itertools.pairwise(cuts):
            part = low if end <= split.low else high
            part.append((end - start, float(energies[start:end].sum())))
        total += part_bound(low, split.low_bits) + part_bound(high, split.high_bits)
    return total


def _stream_ranks(width: int) -> Iterable[tuple[int, ...]]:
    """Every set of ranks that the residual stream may have."""
    ranks = _ranks(width, width // 2)
    for count in range(1, RANKS_OF_STREAM + 1):
        yield from itertools.combinations(ranks, count)


def _ranks(width: int, largest: int) -> list[int]:
    """Multiples of an even step, so that nibbles fill whole bytes; only 0 for an odd width."""
    if width % 2:
        return [0]
    step = 2 * max(1, round(width / STEPS / 2))
    return [*range(0, largest + 1, step)]


def _down_ranks(usual: BitSplit) -> list[int]:
    """Multiples of a power of two with a fast rotation of both parts, and the usual rank."""
    if usual.width % 2:
        return [0]
    step = 2 ** max(1, int(math.log2(usual.width / STEPS)) - 1)
    ranks = range(0, usual.width // 2 + 1, step)
    orders = {rank: max(outer_order(usual.width - rank), outer_order(rank or 1)) for rank in ranks}
    return [*(rank for rank in ranks if orders[rank] <= LARGEST_OUTER_ORDER), usual.high]
