"""Train the rotations inside U_A, U_B and U_C on the loss of the model with quantised activations.

Liu et al., "SpinQuant" (arXiv 2405.16406), train R1 of the residual stream and R2 of the values by
Cayley transforms on the next-token loss of a model whose activations and cache are quantised. Its
weights are not, since GPTQ quantises them later. ResQ's rotations inside each part of its bases are
trained in the same way, and those of its keys too. Training begins with fitted bases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.calibration.training.backward import learning, recomputing
from resq_onnx.calibration.training.loss import last_hidden, next_token_loss
from resq_onnx.calibration.training.simulation import Bases, parts_by_recipe, simulated
from resq_onnx.calibration.training.stiefel import descend
from resq_onnx.calibration.training.turned import TurnedBases
from resq_onnx.families import ModelLayout
from resq_onnx.projections import Projections
from resq_onnx.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Advance = Callable[[int, int], None]

State = Mapping[str, torch.Tensor]

LEARNING_RATE: Final = 1.5
"""Of the first step, as in SpinQuant; it falls linearly to 0."""


def _ignore(*_of_progress: Any) -> None:
    pass


class Training:
    """Rotations in training: a step reads one sequence."""

    def __init__(
        self,
        model: PreTrainedModel,
        layout: ModelLayout,
        recipe: Recipe,
        projections: Projections,
        sequences: NDArray[np.int64],
        device: str = "cpu",
        recomputes: bool = False,
    ) -> None:
        """Begin with given bases.

        Args:
            model: The original model, on the device; its weights do not change.
            layout: Its sizes and module names.
            recipe: Its method, bits, clip and seed are used.
            projections: Start values.
            sequences: Token ids (samples, tokens), read in a seeded order, again and again.
            device: Where the model is.
            recomputes: Whether each layer runs once more in the backward pass, so that only its
                input is kept until then.
        """
        self._model, self._layout, self._start = model, layout, projections
        self._device = device
        order = np.random.default_rng(recipe.seed).permutation(len(sequences))
        self._sequences, self._recomputes = sequences[order], recomputes
        self._parts = parts_by_recipe(recipe, projections)
        self._turned = TurnedBases(projections, recipe, device)

    def loss(self, number: int = 0) -> float:
        """The next-token loss on a sequence, in nats; the rotations get its gradient."""
        token_ids = self._sequences[number % len(self._sequences)][None]
        tokens = torch.from_numpy(token_ids).to(self._device)
        head = cast(Any, self._model).get_output_embeddings()
        with ExitStack() as stack:
            stack.enter_context(learning(self._model))
            if self._recomputes:
                stack.enter_context(recomputing(self._model, self._layout))
            bases = self._turned.bases()
            stack.enter_context(self._simulated(lambda: bases))
            loss = next_token_loss(head, last_hidden(self._model, tokens), tokens)
            loss.backward()
        return float(loss.detach())

    def forget(self) -> None:
        """Remove the gradients of `loss`."""
        for rotation in self._turned.rotations:
            rotation.grad = None

    def run(
        self,
        steps: int,
        advance: Advance = _ignore,
        keep: Callable[[int, State], None] = _ignore,
        first: int = 0,
    ) -> None:
        """Train.

        Args:
            steps: Number of steps; it also decides how large each one is.
            advance: Called after each step with the number of finished steps and of all.
            keep: The same with the state, from which another process can `go_on_from` there.
            first: Steps that another process has finished.
        """
        for step in range(first, steps):
            self.loss(step)
            descend(self._turned.rotations, LEARNING_RATE * (1 - step / steps))
            advance(step + 1, steps)
            keep(step + 1, self.state())

    def state(self) -> dict[str, torch.Tensor]:
        """All that the next steps depend on: the rotations."""
        return {str(i): rotation.detach() for i, rotation in enumerate(self._turned.rotations)}

    def go_on_from(self, state: State) -> None:
        """Continue from the state of another process."""
        with torch.no_grad():
            for name, rotation in self.state().items():
                rotation.copy_(state[name])

    def result(self) -> Projections:
        """The projections with the current rotations, which are orthogonal in float64."""
        return self._turned.exact(self._start)

    def _simulated(self, bases: Callable[[], Bases]) -> Any:
        return simulated(self._model, self._layout, self._start, self._parts, bases)
