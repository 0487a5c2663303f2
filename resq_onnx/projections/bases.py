"""Compute the orthogonal changes of basis U_A, U_B, U_C and U_D from second moments.

The columns of each matrix are the new basis vectors (x_new = x @ U), those of the low part first
and those of the high part last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.projections.allocation import Energies, choose_splits
from resq_onnx.projections.hadamard import (
    KroneckerFactors,
    identity_factors,
    kronecker_factors,
    random_orthogonal,
    random_signs,
    randomised_hadamard,
)
from resq_onnx.projections.moments import SITES, Moments, moment_shapes
from resq_onnx.projections.splits import Splits, uniform_splits
from resq_onnx.recipe import BitSplit, Method, Recipe

Array = NDArray[Any]
Matrix = NDArray[np.float64]

_HIDDEN, _VALUE, _KEY, _DOWN_SIGNS, _DOWN_LOW, _DOWN_HIGH = range(6)
"""First element of a random stream's key; renumbering changes every exported file."""


@dataclass(frozen=True)
class DownTransform:
    """The part of one layer's U_D that precedes the rotation shared by all layers.

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
        hidden: (D, D), U_A, the residual stream; or what its readers read behind their norms, for
            families of which `ModelLayout.turns_inputs` says so.
        value: (layers, kv heads, d, d), U_B.
        key: (layers, kv heads, d, d), U_C, for queries and keys after RoPE.
        down: One per layer; U_D = the columns picked by `order`, times `signs`, times
            blockdiag(down_low, down_high) of the layer's widths.
        down_low: Rotations of the low part before down_proj, by width.
        down_high: Rotations of the high part before down_proj, by width.
        splits: Low and high parts of every width.
        rotates_keys: False if every U_C is the identity, so that nothing has to be computed.
        rotates_down: False if U_D only permutes channels, which the weights absorb.
    """

    hidden: Matrix
    value: Matrix
    key: Matrix
    down: tuple[DownTransform, ...]
    down_low: Mapping[int, KroneckerFactors]
    down_high: Mapping[int, KroneckerFactors]
    splits: Splits
    rotates_keys: bool
    rotates_down: bool

    @property
    def hidden_split(self) -> BitSplit:
        """The parts of the residual stream as read by the first layer's q/k/v."""
        return self.splits.attention[0]

    @property
    def head_split(self) -> BitSplit:
        """The parts of a key or value in the cache."""
        return self.splits.record

    @property
    def down_split(self) -> BitSplit:
        """The parts of the input of the first layer's down_proj."""
        return self.splits.down[0]

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
        transform, split = self.down[layer], self.splits.down[layer]
        moved = x[..., transform.order] * transform.signs.astype(x.dtype)
        if not self.rotates_down:
            return np.asarray(moved)
        parts = [self.down_low[split.low].apply(moved[..., : split.low])]
        if split.high:
            parts.append(self.down_high[split.high].apply(moved[..., split.low :]))
        return np.concatenate(parts, axis=-1)

    def down_matrix(self, layer: int) -> Matrix:
        """U_D of a layer as a dense matrix, (I, I): slow, for tests and inspection."""
        return self.apply_down(layer, np.eye(self.down_split.width))

    def attention_out_columns(self, layer: int, weight: Array) -> Array:
        """Reorder columns (..., H*d) from per head to [all low parts | all high parts]."""
        split = self.splits.attention_out[layer]
        heads = weight.shape[-1] // split.width
        return np.asarray(weight[..., high_last_order(heads, split)])

    def hidden_hessian(self, moment: Array) -> Array:
        """U_Aᵀ M U_A of a HIDDEN moment, (D, D)."""
        basis = self.hidden.astype(moment.dtype)
        return np.asarray(basis.T @ moment @ basis)

    def attention_out_hessian(self, layer: int, moment: Array) -> Array:
        """The ATTENTION OUT moment (H*d, H*d) in the order of o_proj's quantised columns."""
        right = self.attention_out_columns(layer, self.apply_value(layer, moment))
        return self.attention_out_columns(layer, self.apply_value(layer, right.T))

    def down_hessian(self, layer: int, moment: Array) -> Array:
        """U_Dᵀ M U_D of a DOWN moment, (I, I)."""
        return self.apply_down(layer, self.apply_down(layer, moment).T)


def high_last_order(num_heads: int, head_split: BitSplit) -> NDArray[np.int64]:
    """Column order of all heads' low parts, then all their high parts, (H*d,).

    new[j] = old[order[j]]. Within each part, the heads and the columns of a head keep their order.
    """
    columns = np.arange(num_heads * head_split.width).reshape(num_heads, head_split.width)
    low, high = columns[:, : head_split.low], columns[:, head_split.low :]
    return np.concatenate([low.ravel(), high.ravel()])


def compute_projections(
    recipe: Recipe, layout: ModelLayout, moments: Moments | None
) -> Projections:
    """Compute the bases of a recipe; the same arguments give the same bases.

    Args:
        recipe: Only its method, fractions, bits and seed are used.
        layout: Sizes of the model.
        moments: Required by methods that derive their bases from them (`Method.needs_moments`).

    Raises:
        ResqError: The widths do not split evenly; or required moments are missing, have another
            model's shape, or are not finite.
    """
    used = _usable(recipe, layout, moments) if recipe.how.needs_moments else None
    splits, rotates = _splits(recipe, layout, used), recipe.how.rotates
    grid = list(np.ndindex(layout.num_layers, layout.num_kv_heads))

    def basis(width: int, edges: Sequence[int], moment: Array | None, *key: int) -> Matrix:
        return _basis(recipe.how, width, edges, moment, _stream(recipe, *key))

    def head_bases(moment: Array | None, site: int, edges: Sequence[Sequence[int]]) -> Matrix:
        bases = [
            basis(layout.head_dim, edges[i[0]], None if moment is None else moment[i], site, *i)
            for i in grid
        ]
        return np.stack(bases).reshape(moment_shapes(layout)["value"])

    def factors(widths: set[int], site: int) -> dict[int, KroneckerFactors]:
        def rotation(width: int) -> KroneckerFactors:
            if not rotates:
                return identity_factors(width)
            return kronecker_factors(width, _stream(recipe, site))

        return {width: rotation(width) for width in sorted(widths) if width}

    total = hidden_moment(used, evenly=layout.turns_inputs) if used else None
    value_edges = [splits.head_edges(layer) for layer in range(layout.num_layers)]
    return Projections(
        hidden=basis(layout.hidden_size, splits.hidden_edges(), total, _HIDDEN),
        value=head_bases(used.value if used else None, _VALUE, value_edges),
        key=head_bases(
            used.key if used else None, _KEY, [splits.record_edges()] * len(value_edges)
        ),
        down=tuple(
            _down_transform(recipe, split, used.down[layer] if used else None, layer)
            for layer, split in enumerate(splits.down)
        ),
        down_low=factors({split.low for split in splits.down}, _DOWN_LOW),
        down_high=factors({split.high for split in splits.down}, _DOWN_HIGH),
        splits=splits,
        # U_C only serves the quantised cache; a float cache needs no rotation.
        rotates_keys=recipe.cache == "quantised" and (rotates or recipe.how.needs_moments),
        rotates_down=rotates,
    )


def _splits(recipe: Recipe, layout: ModelLayout, moments: Moments | None) -> Splits:
    """Divide every width by the recipe's fractions, or by energies under its budget."""
    if recipe.target_bits is None:
        return uniform_splits(recipe, layout)
    assert moments is not None, "target_bits needs the method resq, which needs moments"
    return choose_splits(recipe, layout, energies_of(layout, moments))


def energies_of(layout: ModelLayout, moments: Moments) -> Energies:
    """Energy per token of every coefficient in the eigenbases from which the bases are made."""
    tokens, head = max(moments.tokens, 1), layout.head_dim
    hidden = ascending_eigenvectors(hidden_moment(moments, evenly=layout.turns_inputs))
    heads = np.arange(layout.num_heads)

    def of_values(layer: int) -> Matrix:
        inputs = moments.attention_out[layer].reshape(len(heads), head, len(heads), head)
        bases = [ascending_eigenvectors(moment) for moment in moments.value[layer]]
        return np.stack(
            [_energies(inputs[h, :, h], bases[h // layout.heads_per_kv_head]) for h in heads]
        )

    return Energies(
        attention=np.stack([_energies(m, hidden) for m in moments.hidden_attention]) / tokens,
        mlp=np.stack([_energies(m, hidden) for m in moments.hidden_mlp]) / tokens,
        attention_out=np.stack([of_values(layer) for layer in range(layout.num_layers)]) / tokens,
        down=np.sort(np.diagonal(moments.down, axis1=1, axis2=2), axis=1) / tokens,
    )


def _energies(moment: Array, basis: Matrix) -> Matrix:
    """The diagonal of basisᵀ · moment · basis, (width,)."""
    return np.asarray(np.einsum("ij,ij->j", basis, moment.astype(np.float64) @ basis))


def ascending_eigenvectors(moment: Array) -> Matrix:
    """Eigenvectors of a symmetric matrix as columns, smallest eigenvalue first.

    LAPACK leaves the signs open; here the largest element of each vector is positive.
    """
    _, vectors = np.linalg.eigh(np.asarray(moment, dtype=np.float64))
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(len(vectors))] < 0, -1.0, 1.0)
    return np.asarray(vectors * signs)


def _basis(
    method: Method,
    width: int,
    edges: Sequence[int],
    moment: Array | None,
    rng: np.random.Generator,
) -> Matrix:
    """One orthogonal matrix (width, width) by the recipe's method, with parts cut at `edges`."""
    if method.basis == "hadamard":
        return randomised_hadamard(width, rng)
    if moment is None:
        return np.eye(width)
    if method.basis == "channels":
        high = width - edges[0] if edges else 0
        return np.eye(width)[:, _largest_last(np.diagonal(moment), high)]
    blocks = np.split(ascending_eigenvectors(moment), edges, axis=1)
    turned = [block @ random_orthogonal(block.shape[1], rng) for block in blocks]
    return np.concatenate(turned, axis=1)


def _down_transform(
    recipe: Recipe, split: BitSplit, moment: Array | None, layer: int
) -> DownTransform:
    order = np.arange(split.width)
    if moment is not None:
        order = _largest_last(np.diagonal(moment), split.high)
    signs = np.ones(split.width)
    if recipe.how.rotates:
        signs = random_signs(split.width, _stream(recipe, _DOWN_SIGNS, layer))
    return DownTransform(order, signs)


def _largest_last(energies: Array, count: int) -> NDArray[np.int64]:
    """Indices with the `count` largest energies last; both groups keep their own order."""
    ranks = np.argsort(energies, kind="stable")
    low, high = ranks[: len(ranks) - count], ranks[len(ranks) - count :]
    return np.concatenate([np.sort(low), np.sort(high)])


def hidden_moment(moments: Moments, *, evenly: bool = False) -> Matrix:
    """Sum of the HIDDEN moments, (D, D), for the basis that all layers share.

    Args:
        moments: Of all layers.
        evenly: Whether each moment is divided by its mean square, so that all layers have equal
            weight. That square is 1 behind a norm's division, and behind its gains another number
            in each layer.
    """
    if not evenly:
        total = moments.hidden_attention.sum(axis=0, dtype=np.float64)
        return np.asarray(total + moments.hidden_mlp.sum(axis=0, dtype=np.float64))
    width = moments.hidden_attention.shape[-1]
    total = np.zeros((width, width))
    for moment in (*moments.hidden_attention, *moments.hidden_mlp):
        mean_square = float(np.trace(moment, dtype=np.float64)) / (width * max(moments.tokens, 1))
        if mean_square > 0:
            total += moment.astype(np.float64) / mean_square
    return total


def _stream(recipe: Recipe, *key: int) -> np.random.Generator:
    """A separate random stream per site, layer and head, so that results do not depend on order."""
    return np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=key))


def _usable(recipe: Recipe, layout: ModelLayout, moments: Moments | None) -> Moments:
    if moments is None:
        raise ResqError(f"method {recipe.method} needs the second moments of a calibration pass")
    check_shapes(layout, moments)
    check_finite(moments)
    return moments


def check_finite(moments: Moments) -> None:
    """Refuse moments that contain inf or NaN.

    Raises:
        ResqError: A moment is not finite; the message names the first site and layer.
    """
    for site in SITES:
        for layer, moment in enumerate(getattr(moments, site)):
            if not np.isfinite(moment).all():
                raise ResqError(
                    f"layer {layer}: the second moments at {site} are not finite; the model "
                    "computed inf or NaN on the calibration text: check its weights"
                )


def check_shapes(layout: ModelLayout, moments: Moments) -> None:
    """Refuse moments from the calibration of another model.

    Raises:
        ResqError: The shape at a site differs from that of the layout.
    """
    for site, expected in moment_shapes(layout).items():
        found = getattr(moments, site).shape
        if found != expected:
            raise ResqError(
                f"the second moments at {site} have shape {found}, but the model needs "
                f"{expected}: they belong to another model; calibrate this one"
            )
