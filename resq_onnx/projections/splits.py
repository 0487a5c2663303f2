"""Splits of a model's widths into a low and a high part, by site and layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.projections.hadamard import outer_order
from resq_onnx.recipe import BitSplit, Recipe

LINEAR_SITES: Final = ("attention", "mlp", "attention_out", "down")
"""Fields of `Splits` with an entry per layer: the inputs of linear layers."""

COSTLY: Final = 100
"""Multiplications per coefficient, on average, above which a larger high part makes the rotation
before down_proj cheaper: on a GPU, rotating a prompt by an order of 196 takes two thirds as long as
the layer's matrix products (docs/cuda.md)."""

NEARLY: Final = 1.1
"""Among high parts that cost at most this multiple of the fewest multiplications, the smallest one
is taken."""


ROUNDING: Final = 0.05
"""Coefficients by which a fraction of a width may differ from a whole number: 1/3 may be given as
0.333333, and six digits of 100,000 coefficients are exact to a twentieth."""

DOWN_SHARE: Final = 0.125
"""Smallest high part as a share of the input of down_proj, unless the recipe sets the share."""


@dataclass(frozen=True)
class Splits:
    """The low and high part of every width.

    Attributes:
        attention: By layer, of the residual stream as read by q/k/v.
        mlp: By layer, of the residual stream as read by gate and up.
        attention_out: By layer, within each head of the input of o_proj.
        down: By layer, of the input of down_proj.
        record: Within a key or value in the cache, the same in all layers.
    """

    attention: tuple[BitSplit, ...]
    mlp: tuple[BitSplit, ...]
    attention_out: tuple[BitSplit, ...]
    down: tuple[BitSplit, ...]
    record: BitSplit

    def hidden_edges(self) -> list[int]:
        """Boundaries between parts of the residual stream, over all layers; ascending."""
        return _edges((*self.attention, *self.mlp))

    def head_edges(self, layer: int) -> list[int]:
        """Boundaries between parts of a value, in the cache and before o_proj; ascending."""
        return _edges((self.record, self.attention_out[layer]))

    def record_edges(self) -> list[int]:
        """Boundaries between parts of a key; empty if it has one part."""
        return _edges((self.record,))

    def mean_bits(self, layout: ModelLayout) -> float:
        """Average bits per weight of the layers, not counting scales."""
        counts = weight_counts(layout)
        bits = 0.0
        for site in LINEAR_SITES:
            splits: tuple[BitSplit, ...] = getattr(self, site)
            bits += counts[site] * sum(split.mean_bits for split in splits)
        return bits / (layout.num_layers * sum(counts.values()))

    def to_json(self) -> dict[str, Any]:
        """The record as plain values, for `splits_from_json`."""
        return dataclasses.asdict(self)


def splits_from_json(content: dict[str, Any]) -> Splits:
    """The inverse of `Splits.to_json`."""
    by_layer = {site: tuple(BitSplit(**split) for split in content[site]) for site in LINEAR_SITES}
    return Splits(**by_layer, record=BitSplit(**content["record"]))


def split_of(recipe: Recipe, width: int, site: str) -> BitSplit:
    """Divide a width of the residual stream or of a head.

    Args:
        recipe: Only its method, fractions and bits are used.
        width: Number of coefficients.
        site: Name of the width, for error messages.

    Raises:
        ResqError: `high_fraction` of `width` is not a whole even number.
    """
    return _divide(recipe, width, recipe.high_fraction, "high-fraction", site)


def least_down_split(recipe: Recipe, width: int) -> BitSplit:
    """Divide the input width of down_proj like `split_of`, by `down_high` or `DOWN_SHARE`.

    The model uses `down_split`, whose high part may be larger.
    """
    share = DOWN_SHARE if recipe.down_high is None else recipe.down_high
    return _divide(recipe, width, share, "down-high", "the intermediate size")


def table_split(recipe: Recipe, width: int) -> BitSplit:
    """Divide the columns of embedding and lm_head, for a hidden size of `width`.

    Raises:
        ResqError: A low part in 4 bits would not fill whole bytes, or as for `split_of`.
    """
    if recipe.head_bits == 8:
        return BitSplit(0, width, high_bits=recipe.high_bits)
    hidden = split_of(recipe, width, "the hidden size")
    split = dataclasses.replace(hidden, low_bits=recipe.head_bits)
    if split.low % 2:
        raise ResqError(
            f"--head-bits 4 needs an even hidden size, but this model's is {width}; use 8"
        )
    return split


def uniform_splits(recipe: Recipe, layout: ModelLayout) -> Splits:
    """The splits by the recipe's fractions, the same in all layers.

    Raises:
        ResqError: A fraction of a width is not a whole even number.
    """
    hidden = split_of(recipe, layout.hidden_size, "the hidden size")
    head = split_of(recipe, layout.head_dim, "the head size")
    down = down_split(recipe, layout.intermediate_size)
    return alike_in_all_layers(layout.num_layers, hidden, head, down)


def down_split(recipe: Recipe, width: int) -> BitSplit:
    """Divide the input of down_proj, `width` coefficients.

    1. A share given by the recipe is used exactly.
    2. Otherwise the high part is an eighth, if that is cheap to rotate (`COSTLY`).
    3. Otherwise it is the smallest one from an eighth to a sixth whose rotation is about as cheap
       as the cheapest (`NEARLY`).

    This does not depend on the method, so that methods are compared at equal bits.

    Raises:
        ResqError: The share of `width` is not a whole even number.
    """
    least = least_down_split(recipe, width)
    is_fixed = recipe.down_high is not None or not least.high
    if is_fixed or down_rotation_cost(least) <= COSTLY * width:
        return least
    found = [
        dataclasses.replace(least, low=width - high, high=high)
        for high in range(least.high, 4 * least.high // 3 + 1, 2)  # nibbles fill whole bytes
    ]
    fewest = min(down_rotation_cost(split) for split in found)
    return next(split for split in found if down_rotation_cost(split) <= NEARLY * fewest)


def down_rotation_cost(split: BitSplit) -> int:
    """Multiplications per token in the outer factors of the rotation before down_proj."""
    return sum(part * outer_order(part) for part in (split.low, split.high) if part)


def alike_in_all_layers(layers: int, hidden: BitSplit, head: BitSplit, down: BitSplit) -> Splits:
    """The splits of a model whose layers all have the same parts."""
    return Splits((hidden,) * layers, (hidden,) * layers, (head,) * layers, (down,) * layers, head)


def weight_counts(layout: ModelLayout) -> dict[str, int]:
    """Number of weights of one layer by the site that they read."""
    hidden, heads = layout.hidden_size, layout.num_heads * layout.head_dim
    keys_and_values = 2 * layout.num_kv_heads * layout.head_dim
    return {
        "attention": (heads + keys_and_values) * hidden,
        "mlp": 2 * layout.intermediate_size * hidden,
        "attention_out": hidden * heads,
        "down": hidden * layout.intermediate_size,
    }


def _edges(splits: tuple[BitSplit, ...]) -> list[int]:
    return sorted({split.low for split in splits} - {0, splits[0].width})


def _divide(recipe: Recipe, width: int, fraction: float, option: str, site: str) -> BitSplit:
    if not recipe.how.has_high_part or fraction == 0.0:
        return BitSplit(width, 0, recipe.low_bits, recipe.high_bits)
    high = width * fraction
    if not _is_even(high) or width % 2:
        raise ResqError(
            f"--{option} {fraction:g} of {site} {width} is {high:g} coefficients, but both parts "
            f"must be whole even numbers; possible fractions: {_fractions_that_divide(width)}"
        )
    return BitSplit(width - round(high), round(high), recipe.low_bits, recipe.high_bits)


def _is_even(value: float) -> bool:
    return abs(value - round(value)) < ROUNDING and round(value) % 2 == 0


def _fractions_that_divide(width: int) -> str:
    """The fractions 1/2, 1/3, ... 1/32 of `width` that leave two even parts."""
    if width % 2:
        return "only 0, because the size is odd"
    found = [f"1/{n} ({1 / n:.6g})" for n in range(2, 33) if width % n == 0 and width // n % 2 == 0]
    return ", ".join([*found, "0"])
