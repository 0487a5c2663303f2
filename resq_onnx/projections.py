"""Second moments in, orthogonal changes of basis out: U_A, U_B, U_C and U_D.

Everywhere the columns of a matrix are the new basis vectors (x_new = x @ U), those of the
low part first and those of the high part last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.hadamard import (
    KroneckerFactors,
    identity_factors,
    kronecker_factors,
    random_orthogonal,
    random_signs,
    randomised_hadamard,
)
from resq_onnx.moments import SITES, Moments, moment_shapes
from resq_onnx.recipe import BitSplit, Recipe

Array = NDArray[Any]
Matrix = NDArray[np.float64]

METHODS_FROM_MOMENTS: Final = ("resq", "outlier")
"""Methods whose bases depend on the calibration text."""

_HIDDEN, _VALUE, _KEY, _DOWN_SIGNS, _DOWN_LOW, _DOWN_HIGH = range(6)
"""First element of a random stream's key; renumbering changes every exported file."""


@dataclass(frozen=True)
class DownTransform:
    """What U_D of one layer does before the rotation that all layers share.

    Attributes:
        order: (I,) new[j] = old[order[j]]; the high part last.
        signs: (I,) +-1, in the new order.
    """

    order: NDArray[np.int64]
    signs: NDArray[np.float64]


@dataclass(frozen=True)
class Projections:
    """Every change of basis of one model, and how each new basis is split.

    Attributes:
        hidden: (D, D), U_A, the residual stream.
        value: (layers, kv heads, d, d), U_B.
        key: (layers, kv heads, d, d), U_C, for queries and keys after RoPE.
        down: One per layer; U_D = the columns picked by `order`, times `signs`, times
            blockdiag(down_low, down_high).
        down_low: Rotation of the low part before down_proj.
        down_high: Rotation of the high part; None where there is no high part.
        hidden_split: Low and high part of the residual stream.
        head_split: The same inside a head.
        down_split: The same before down_proj.
        rotates_keys: False if every U_C is the identity, so that nothing has to run.
        rotates_down: False if U_D only permutes channels, which the weights absorb.
    """

    hidden: Matrix
    value: Matrix
    key: Matrix
    down: tuple[DownTransform, ...]
    down_low: KroneckerFactors
    down_high: KroneckerFactors | None
    hidden_split: BitSplit
    head_split: BitSplit
    down_split: BitSplit
    rotates_keys: bool
    rotates_down: bool

    def apply_value(self, layer: int, x: Array) -> Array:
        """Apply U_B to each head of the last axis, (..., H*d); heads stay in place."""
        kv_heads, head_dim = self.value.shape[1:3]
        heads = x.shape[-1] // head_dim
        of_query_head = np.repeat(self.value[layer], heads // kv_heads, axis=0)
        rows = x.reshape(-1, heads, head_dim)
        turned = rows.transpose(1, 0, 2) @ of_query_head.astype(x.dtype)  # (H, rows, d)
        return np.asarray(turned.transpose(1, 0, 2).reshape(x.shape))

    def apply_down(self, layer: int, x: Array) -> Array:
        """Compute x @ U_D over the last axis, (..., I), without forming U_D."""
        transform, low = self.down[layer], self.down_split.low
        moved = x[..., transform.order] * transform.signs.astype(x.dtype)
        if not self.rotates_down:
            return np.asarray(moved)
        parts = [self.down_low.apply(moved[..., :low])]
        if self.down_high is not None:
            parts.append(self.down_high.apply(moved[..., low:]))
        return np.concatenate(parts, axis=-1)

    def down_matrix(self, layer: int) -> Matrix:
        """U_D of a layer as one dense matrix, (I, I): slow, for tests and inspection."""
        return self.apply_down(layer, np.eye(self.down_split.width))

    def attention_out_columns(self, weight: Array) -> Array:
        """Reorder columns (..., H*d) from per head to [all low parts | all high parts]."""
        heads = weight.shape[-1] // self.head_split.width
        return np.asarray(weight[..., high_last_order(heads, self.head_split)])

    def hidden_hessian(self, moment: Array) -> Array:
        """U_Aᵀ M U_A of a HIDDEN moment, (D, D)."""
        basis = self.hidden.astype(moment.dtype)
        return np.asarray(basis.T @ moment @ basis)

    def attention_out_hessian(self, layer: int, moment: Array) -> Array:
        """The ATTENTION OUT moment (H*d, H*d) in the order of o_proj's quantised columns."""
        right = self.attention_out_columns(self.apply_value(layer, moment))
        return self.attention_out_columns(self.apply_value(layer, right.T))

    def down_hessian(self, layer: int, moment: Array) -> Array:
        """U_Dᵀ M U_D of a DOWN moment, (I, I)."""
        return self.apply_down(layer, self.apply_down(layer, moment).T)


def high_last_order(num_heads: int, head_split: BitSplit) -> NDArray[np.int64]:
    """Column order that gathers the heads' low parts, then their high parts, (H*d,).

    new[j] = old[order[j]]; inside each part heads keep their order and so do the columns
    of one head.
    """
    columns = np.arange(num_heads * head_split.width).reshape(num_heads, head_split.width)
    low, high = columns[:, : head_split.low], columns[:, head_split.low :]
    return np.concatenate([low.ravel(), high.ravel()])


def compute_projections(
    recipe: Recipe, layout: ModelLayout, moments: Moments | None
) -> Projections:
    """Find the bases a recipe asks for; the same arguments give the same bases.

    Args:
        recipe: Its method, fractions, bits and seed matter here.
        layout: Sizes of the model.
        moments: Needed by the methods `resq` and `outlier` only.

    Raises:
        ResqError: The widths do not split evenly; or moments are needed and are missing,
            of another model's shape, or not finite.
    """
    used = _usable(recipe, layout, moments) if recipe.method in METHODS_FROM_MOMENTS else None
    hidden_split = recipe.split(layout.hidden_size, "the hidden size")
    head_split = recipe.split(layout.head_dim, "the head size")
    down_split = recipe.down_split(layout.intermediate_size)
    rotates = recipe.method in ("resq", "quarot")

    def basis(split: BitSplit, moment: Array | None, *key: int) -> Matrix:
        return _basis(recipe.method, split, moment, _stream(recipe, *key))

    def head_bases(moment: Array | None, site: int) -> Matrix:
        grid = np.ndindex(layout.num_layers, layout.num_kv_heads)
        bases = [basis(head_split, None if moment is None else moment[i], site, *i) for i in grid]
        return np.stack(bases).reshape(moment_shapes(layout)["value"])

    def factors(width: int, site: int) -> KroneckerFactors:
        if not rotates:
            return identity_factors(width)
        return kronecker_factors(width, _stream(recipe, site))

    return Projections(
        hidden=basis(hidden_split, hidden_moment(used) if used else None, _HIDDEN),
        value=head_bases(used.value if used else None, _VALUE),
        key=head_bases(used.key if used else None, _KEY),
        down=tuple(
            _down_transform(recipe, down_split, used.down[layer] if used else None, layer)
            for layer in range(layout.num_layers)
        ),
        down_low=factors(down_split.low, _DOWN_LOW),
        down_high=factors(down_split.high, _DOWN_HIGH) if down_split.high else None,
        hidden_split=hidden_split,
        head_split=head_split,
        down_split=down_split,
        # U_C is for the cache's sake alone: one in float needs no rotation.
        rotates_keys=recipe.cache == "quantised" and recipe.method in ("resq", "quarot", "outlier"),
        rotates_down=rotates,
    )


def ascending_eigenvectors(moment: Array) -> Matrix:
    """Eigenvectors of a symmetric matrix as columns, smallest eigenvalue first.

    Each is given the sign that makes its largest element positive, which LAPACK leaves open.
    """
    _, vectors = np.linalg.eigh(np.asarray(moment, dtype=np.float64))
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(len(vectors))] < 0, -1.0, 1.0)
    return np.asarray(vectors * signs)


def _basis(method: str, split: BitSplit, moment: Array | None, rng: np.random.Generator) -> Matrix:
    """One orthogonal matrix (width, width), by the recipe's method."""
    if method == "quarot":
        return randomised_hadamard(split.width, rng)
    if moment is None:
        return np.eye(split.width)
    if method == "outlier":
        return np.eye(split.width)[:, _largest_last(np.diagonal(moment), split.high)]
    vectors = ascending_eigenvectors(moment)
    low = vectors[:, : split.low] @ random_orthogonal(split.low, rng)
    high = vectors[:, split.low :] @ random_orthogonal(split.high, rng)
    return np.concatenate([low, high], axis=1)


def _down_transform(
    recipe: Recipe, split: BitSplit, moment: Array | None, layer: int
) -> DownTransform:
    order = np.arange(split.width)
    if moment is not None:
        order = _largest_last(np.diagonal(moment), split.high)
    signs = np.ones(split.width)
    if recipe.method in ("resq", "quarot"):
        signs = random_signs(split.width, _stream(recipe, _DOWN_SIGNS, layer))
    return DownTransform(order, signs)


def _largest_last(energies: Array, count: int) -> NDArray[np.int64]:
    """Indices with the `count` largest energies last; both groups keep their own order."""
    ranks = np.argsort(energies, kind="stable")
    low, high = ranks[: len(ranks) - count], ranks[len(ranks) - count :]
    return np.concatenate([np.sort(low), np.sort(high)])


def hidden_moment(moments: Moments) -> Matrix:
    """The HIDDEN site as a whole, (D, D): the residual stream has one basis for all layers."""
    total = moments.hidden_attention.sum(axis=0, dtype=np.float64)
    return np.asarray(total + moments.hidden_mlp.sum(axis=0, dtype=np.float64))


def _stream(recipe: Recipe, *key: int) -> np.random.Generator:
    """A random stream of its own per site, layer and head: no result depends on order."""
    # SeedSequence takes no negative entropy; the recipe does not forbid a negative seed.
    entropy = recipe.seed % 2**64
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))


def _usable(recipe: Recipe, layout: ModelLayout, moments: Moments | None) -> Moments:
    if moments is None:
        raise ResqError(f"method {recipe.method} needs the second moments of a calibration pass")
    check_shapes(layout, moments)
    check_finite(moments)
    return moments


def check_finite(moments: Moments) -> None:
    """Refuse moments in which the model's inf or NaN has arrived.

    Raises:
        ResqError: Names the first site and layer.
    """
    for site in SITES:
        for layer, moment in enumerate(getattr(moments, site)):
            if not np.isfinite(moment).all():
                raise ResqError(
                    f"layer {layer}: the second moments at {site} are not finite; the model "
                    "met inf or NaN on the calibration text: check its weights"
                )


def check_shapes(layout: ModelLayout, moments: Moments) -> None:
    """Refuse moments that another model's calibration gave.

    Raises:
        ResqError: A site has another shape than the layout implies.
    """
    for site, expected in moment_shapes(layout).items():
        found = getattr(moments, site).shape
        if found != expected:
            raise ResqError(
                f"the second moments at {site} have shape {found} and the model needs "
                f"{expected}: they belong to another model; calibrate this one"
            )
