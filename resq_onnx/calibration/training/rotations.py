"""Train the rotations inside U_A, U_B and U_C on the loss of the model with quantised activations.

Liu et al., "SpinQuant" (arXiv 2405.16406), train R1 of the residual stream and R2 of the values by
Cayley transforms on the next-token loss of a model whose activations and cache are quantised. Its
weights are not, since GPTQ quantises them later. ResQ's rotations inside each part of its bases are
trained in the same way, and those of its keys too. Training begins with fitted bases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from resq_onnx.calibration.training.loss import next_token_loss
from resq_onnx.calibration.training.simulated_model import SimulatedModel
from resq_onnx.calibration.training.stiefel import descend
from resq_onnx.calibration.training.turned import TurnedBases
from resq_onnx.projections import Projections

Advance = Callable[[int, int], None]

State = Mapping[str, torch.Tensor]

LEARNING_RATE: Final = 1.5
"""Of the first step, as in SpinQuant; it falls linearly to 0."""


def _ignore(*_of_progress: Any) -> None:
    pass


class Training:
    """Rotations in training: a step reads one sequence."""

    def __init__(self, simulated: SimulatedModel) -> None:
        """Begin with the bases of a model, whose weights do not change."""
        self._simulated = simulated
        self._turned = TurnedBases(simulated.projections, simulated.recipe, simulated.device)

    def loss(self, number: int = 0) -> float:
        """The next-token loss on a sequence, in nats; the rotations get its gradient."""
        return self._simulated.backward(number, next_token_loss, self._turned.bases())

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
        return self._turned.exact(self._simulated.projections)
