"""Compute the orthogonal changes of basis U_A, U_B, U_C and U_D from second moments.

The columns of each matrix are the new basis vectors (x_new = x @ U), those of the low part first
and those of the high part last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.methods import Method
from resq_onnx.projections.allocation import Energies, choose_splits
from resq_onnx.projections.hadamard import (
    KroneckerFactors,
    identity_factors,
    kronecker_factors,
    random_orthogonal,
    random_signs,
    randomised_hadamard,
)
from resq_onnx.projections.linalg import float64_on
from resq_onnx.projections.moments import SecondMoments, checked_site, moment_shapes
from resq_onnx.projections.splits import Splits, uniform_splits
from resq_onnx.projections.sums import BasisSums, sums_of
from resq_onnx.recipe import BitSplit, Recipe

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
    def turns_hidden(self) -> bool:
        """False if U_A is the identity, so that nothing has to be computed."""
        return not np.array_equal(self.hidden, np.eye(len(self.hidden)))

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


def high_last_order(num_heads: int, head_split: BitSplit) -> NDArray[np.int64]:
    """Column order of all heads' low parts, then all their high parts, (H*d,).

    new[j] = old[order[j]]. Within each part, the heads and the columns of a head keep their order.
    """
    columns = np.arange(num_heads * head_split.width).reshape(num_heads, head_split.width)
    low, high = columns[:, : head_split.low], columns[:, head_split.low :]
    return np.concatenate([low.ravel(), high.ravel()])


def compute_projections(
    recipe: Recipe,
    layout: ModelLayout,
    moments: SecondMoments | None,
    sums: BasisSums | None = None,
    device: str = "cpu",
) -> Projections:
    """Compute the bases of a recipe; the same arguments give the same bases.

    Args:
        recipe: Only its method, fractions, bits and seed are used.
        layout: Sizes of the model.
        moments: For recipes with `target_bits`, and where `sums` is needed and not given.
        sums: Those of `moments`, if known; used if `Method.needs_moments`.
        device: Where PyTorch decomposes matrices.

    Raises:
        ResqError: The widths do not split evenly; or moments are missing or another model's.
    """
    used = _needed_sums(layout, moments, sums, recipe) if recipe.how.needs_moments else None
    splits, rotates = _splits(recipe, layout, moments, used, device), recipe.how.rotates
    grid = list(np.ndindex(layout.num_layers, layout.num_kv_heads))

    def basis(width: int, edges: Sequence[int], moment: Array | None, *key: int) -> Matrix:
        return _basis(recipe.how, width, edges, moment, _stream(recipe, *key), device)

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

    value_edges = [splits.head_edges(layer) for layer in range(layout.num_layers)]
    total = used.hidden if used else None
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


def _splits(
    recipe: Recipe,
    layout: ModelLayout,
    moments: SecondMoments | None,
    sums: BasisSums | None,
    device: str,
) -> Splits:
    """Divide every width by the recipe's fractions, or by energies under its budget."""
    if recipe.target_bits is None:
        return uniform_splits(recipe, layout)
    if moments is None or sums is None:
        raise ResqError("target_bits needs the second moments of every layer")
    return choose_splits(recipe, layout, energies_of(layout, moments, sums, device))


def energies_of(
    layout: ModelLayout, moments: SecondMoments, sums: BasisSums, device: str = "cpu"
) -> Energies:
    """Energy per token of every coefficient in the eigenbases from which the bases are made."""
    head, hidden = layout.head_dim, ascending_eigenvectors(sums.hidden, device)
    heads = np.arange(layout.num_heads)
    found: list[tuple[Matrix, ...]] = []
    for layer in range(layout.num_layers):
        inputs = checked_site(layout, moments, layer, "attention_out")
        inputs = inputs.reshape(len(heads), head, len(heads), head)
        bases = [ascending_eigenvectors(moment, device) for moment in sums.value[layer]]
        of_heads = [
            _energies(inputs[h, :, h], bases[h // layout.heads_per_kv_head], device) for h in heads
        ]
        attention, mlp = (
            _energies(checked_site(layout, moments, layer, site), hidden, device)
            for site in ("hidden_attention", "hidden_mlp")
        )
        found.append((attention, mlp, np.stack(of_heads), np.sort(sums.down[layer])))
    return Energies(*(np.stack(site) / max(sums.tokens, 1) for site in zip(*found, strict=True)))


def _energies(moment: Array, basis: Matrix, device: str) -> Matrix:
    """The diagonal of basisᵀ · moment · basis, (width,)."""
    vectors = float64_on(device, basis, own=False)
    turned = float64_on(device, moment, own=False) @ vectors
    return np.asarray(turned.mul_(vectors).sum(dim=0).cpu().numpy())


def ascending_eigenvectors(moment: Array, device: str = "cpu") -> Matrix:
    """Eigenvectors of a symmetric matrix as columns, smallest eigenvalue first.

    LAPACK leaves the signs open; here the largest element of each vector is positive.
    """
    found = torch.linalg.eigh(float64_on(device, moment, own=False)).eigenvectors
    vectors = found.cpu().numpy()
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(len(vectors))] < 0, -1.0, 1.0)
    return np.asarray(vectors * signs)


def _basis(
    method: Method,
    width: int,
    edges: Sequence[int],
    moment: Array | None,
    rng: np.random.Generator,
    device: str,
) -> Matrix:
    """One orthogonal matrix (width, width) by the recipe's method, with parts cut at `edges`."""
    if method.basis == "hadamard":
        return randomised_hadamard(width, rng)
    if moment is None:
        return np.eye(width)
    if method.basis == "channels":
        high = width - edges[0] if edges else 0
        return np.eye(width)[:, _largest_last(np.diagonal(moment), high)]
    blocks = np.split(ascending_eigenvectors(moment, device), edges, axis=1)
    turned = [block @ random_orthogonal(block.shape[1], rng, device) for block in blocks]
    return np.concatenate(turned, axis=1)


def _down_transform(
    recipe: Recipe, split: BitSplit, energies: Array | None, layer: int
) -> DownTransform:
    order = np.arange(split.width)
    if energies is not None:
        order = _largest_last(energies, split.high)
    signs = np.ones(split.width)
    if recipe.how.rotates:
        signs = random_signs(split.width, _stream(recipe, _DOWN_SIGNS, layer))
    return DownTransform(order, signs)


def _largest_last(energies: Array, count: int) -> NDArray[np.int64]:
    """Indices with the `count` largest energies last; both groups keep their own order."""
    ranks = np.argsort(energies, kind="stable")
    low, high = ranks[: len(ranks) - count], ranks[len(ranks) - count :]
    return np.concatenate([np.sort(low), np.sort(high)])


def _stream(recipe: Recipe, *key: int) -> np.random.Generator:
    """A separate random stream per site, layer and head, so that results do not depend on order."""
    return np.random.default_rng(np.random.SeedSequence(recipe.seed, spawn_key=key))


def _needed_sums(
    layout: ModelLayout, moments: SecondMoments | None, sums: BasisSums | None, recipe: Recipe
) -> BasisSums:
    if sums is not None:
        return sums
    if moments is None:
        raise ResqError(f"method {recipe.method} needs the second moments of a calibration pass")
    return sums_of(layout, moments)
