"""Bases with a trainable rotation inside each of their parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.calibration.training.quantisers import Part
from resq_onnx.calibration.training.simulation import Bases, bases_of
from resq_onnx.calibration.training.stiefel import nearest_orthogonal
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.projections import Projections
from resq_onnx.recipe import BitSplit, Recipe

Matrix = NDArray[np.float64]

TURNED: Final = ("hidden", "value", "key")
"""Bases that are turned."""


class Turned:
    """Bases (..., n, n), each block of whose columns is turned by an orthogonal matrix.

    Attributes:
        rotations: These matrices, (..., k, k) for a block of k columns; leaves with a gradient.
        parts: How each block is rounded.
    """

    def __init__(
        self, start: torch.Tensor, edges: Sequence[int], low: BitSplit, clip: float = 1.0
    ) -> None:
        """Begin with the identity.

        Args:
            start: The bases before they are turned.
            edges: Columns at which a part ends and the next one begins.
            low: The split with the widest low part: no column behind that has few bits.
            clip: Share of its range that the integers of that part span.
        """
        self.edges = list(edges)
        ends = [0, *self.edges, start.shape[-1]]
        self.parts = [
            Part(end - first, low.low_bits, clip)
            if first < low.low
            else Part(end - first, low.high_bits)
            for first, end in pairwise(ends)
        ]
        self._blocks = torch.tensor_split(start, self.edges, dim=-1)
        self.rotations = [
            torch.eye(block.shape[-1], device=start.device)
            .expand(*block.shape[:-2], -1, -1)
            .clone()
            .requires_grad_()
            for block in self._blocks
        ]

    def basis(self) -> torch.Tensor:
        """The bases with the current rotations."""
        pairs = zip(self._blocks, self.rotations, strict=True)
        return torch.cat([block @ rotation for block, rotation in pairs], dim=-1)

    def exact(self, start: Matrix) -> Matrix:
        """The bases in float64, orthogonal to the last bits."""
        blocks = np.split(start, self.edges, axis=-1)
        turns = [nearest_orthogonal(r.detach().double()).cpu().numpy() for r in self.rotations]
        pairs = zip(blocks, turns, strict=True)
        return np.concatenate([block @ turn for block, turn in pairs], axis=-1)


class TurnedBases:
    """Every basis of a model that is trained; a basis in which nothing is rounded is not.

    Attributes:
        hidden: U_A, (D, D): one, or none.
        values: U_B of each layer, (kv heads, d, d), or none.
        keys: U_C of each layer, or none.
    """

    def __init__(self, projections: Projections, recipe: Recipe, device: str = "cpu") -> None:
        """Begin with the bases of a recipe."""
        self._start = bases_of(projections, device)
        start, splits, layers = self._start, projections.splits, range(len(projections.value))
        activations, cache = recipe.activations == "quantised", recipe.cache == "quantised"
        turns_keys = recipe.how.trains_keys and projections.rotates_keys
        stream = max((*splits.attention, *splits.mlp), key=lambda split: split.low)
        self.hidden = (
            [Turned(start.hidden, splits.hidden_edges(), stream, recipe.low_clip(stream))]
            if activations
            else []
        )
        self.values = [
            Turned(start.value[i], splits.head_edges(i), splits.record)
            for i in layers
            if activations or cache
        ]
        self.keys = [
            Turned(start.key[i], splits.record_edges(), splits.record)
            for i in layers
            if cache and turns_keys
        ]

    @property
    def rotations(self) -> list[torch.Tensor]:
        """All rotations."""
        return [
            rotation
            for turned in (*self.hidden, *self.values, *self.keys)
            for rotation in turned.rotations
        ]

    def bases(self) -> Bases:
        """The bases with the current rotations."""
        start = self._start
        return Bases(
            self.hidden[0].basis() if self.hidden else start.hidden,
            torch.stack([one.basis() for one in self.values]) if self.values else start.value,
            torch.stack([one.basis() for one in self.keys]) if self.keys else start.key,
        )

    def exact(self, start: Projections) -> Projections:
        """Projections with the current rotations, orthogonal in float64; `start` is as before."""
        hidden = [one.exact(start.hidden) for one in self.hidden]
        values = [one.exact(start.value[i]) for i, one in enumerate(self.values)]
        keys = [one.exact(start.key[i]) for i, one in enumerate(self.keys)]
        return dataclasses.replace(
            start,
            hidden=hidden[0] if hidden else start.hidden,
            value=np.stack(values) if values else start.value,
            key=np.stack(keys) if keys else start.key,
        )


def keep_turned(work: WorkFolder, name: str, found: Projections, **more: Matrix) -> None:
    """Finish a part of a work folder: bases that were turned, and what belongs to them."""
    work.save(name, {**{basis: getattr(found, basis) for basis in TURNED}, **more})


def kept_turned(work: WorkFolder, name: str, start: Projections) -> Projections:
    """Projections as before, with the turned bases of a part of a work folder."""
    kept = work.load(name, *TURNED)
    return dataclasses.replace(start, **cast(Any, kept))
