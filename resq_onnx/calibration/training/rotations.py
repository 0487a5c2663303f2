"""Train the rotations inside U_A and U_B on the loss of the model with quantised activations.

Liu et al., "SpinQuant" (arXiv 2405.16406): R1 of the residual stream and R2 of the values are
trained by Cayley transforms on the next-token loss of a model whose activations and cache are
quantised. Its weights are not, since GPTQ quantises them later. ResQ trains the rotations inside
each part of its bases in the same way. Keys and down_proj keep their random rotations.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.calibration.training.simulation import Bases, bases_of, parts_by_recipe, simulated
from resq_onnx.calibration.training.stiefel import descend
from resq_onnx.families import ModelLayout
from resq_onnx.projections import Projections
from resq_onnx.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int, int], None]

LEARNING_RATE: Final = 1.5
"""Learning rate of the first step, as in SpinQuant; it falls linearly to 0."""

BATCH: Final = 1
"""Sequences per step. SpinQuant uses 8 of 2,048 tokens, on 8 GPUs."""


def train_rotations(
    model: PreTrainedModel,
    layout: ModelLayout,
    recipe: Recipe,
    projections: Projections,
    sequences: NDArray[np.int64],
    progress: Progress | None = None,
) -> Projections:
    """Rotate U_A and U_B inside their parts to lower the loss of the quantised model.

    Args:
        model: The original model; its weights do not change.
        layout: Its sizes and module names.
        recipe: Only its bits, clip and number of training steps are used.
        projections: Start values.
        sequences: Token ids (samples, tokens); each step takes the next `BATCH`, starting again
            after the last.
        progress: Called after each step with the number of finished steps and their total.

    Returns:
        The projections with trained `hidden` and `value`, which are still orthogonal.
    """
    start = bases_of(projections)
    hidden = _Turned(start.hidden, projections.splits.hidden_edges())
    edges = [projections.splits.head_edges(layer) for layer in range(layout.num_layers)]
    values = [_Turned(start.value[layer], edges[layer]) for layer in range(layout.num_layers)]
    leaves = [leaf for turned in (hidden, *values) for leaf in turned.rotations]
    now = [start]
    parts = parts_by_recipe(recipe, projections)
    order = itertools.cycle(range(len(sequences)))
    with _frozen(model), simulated(model, layout, projections, parts, lambda: now[0]):
        for step in range(recipe.training_steps):
            batch = sequences[[next(order) for _ in range(BATCH)]]
            for row in batch:
                now[0] = Bases(
                    hidden.basis(), torch.stack([turned.basis() for turned in values]), start.key
                )
                loss = next_token_loss(model, torch.from_numpy(row[None]))
                (loss / BATCH).backward()
            descend(leaves, LEARNING_RATE * (1 - step / recipe.training_steps))
            if progress is not None:
                progress(step + 1, recipe.training_steps)
    with torch.no_grad():
        value = np.stack([turned.exact(projections.value[i]) for i, turned in enumerate(values)])
        return dataclasses.replace(
            projections, hidden=hidden.exact(projections.hidden), value=value
        )


def next_token_loss(model: PreTrainedModel, token_ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats, of all but the first tokens of (B, S)."""
    logits = cast(Any, model)(input_ids=token_ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten())


class _Turned:
    """Bases (..., n, n) with a trainable orthogonal matrix for each part."""

    def __init__(self, start: torch.Tensor, edges: Sequence[int]) -> None:
        self._blocks = torch.tensor_split(start, list(edges), dim=-1)
        self.rotations = [
            torch.eye(block.shape[-1]).expand(*block.shape[:-2], -1, -1).clone().requires_grad_()
            for block in self._blocks
        ]

    def basis(self) -> torch.Tensor:
        """The bases with the current rotations."""
        pairs = zip(self._blocks, self.rotations, strict=True)
        return torch.cat([block @ rotation for block, rotation in pairs], dim=-1)

    def exact(self, start: NDArray[np.float64]) -> NDArray[np.float64]:
        """The bases in float64, orthogonal to the last bits."""
        widths = [rotation.shape[-1] for rotation in self.rotations]
        blocks = np.split(start, np.cumsum(widths)[:-1], axis=-1)
        turns = [_orthonormal(rotation.detach().double()) for rotation in self.rotations]
        pairs = zip(blocks, turns, strict=True)
        return np.concatenate([block @ turn for block, turn in pairs], axis=-1)


def _orthonormal(rotations: torch.Tensor) -> NDArray[np.float64]:
    """The nearest orthogonal matrices, by the polar decomposition."""
    left, _, right = torch.linalg.svd(rotations)
    return np.asarray((left @ right).numpy())


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Disable the gradients of the weights inside the context."""
    before = [(p, p.requires_grad) for p in cast(Any, model).parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, takes_gradient in before:
            parameter.requires_grad_(takes_gradient)
