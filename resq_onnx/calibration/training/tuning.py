"""Tune the weights of the layers for rounding, towards the float model's predictions.

The loss is the KL divergence from the float model's distributions over the vocabulary, as in
quantisation-aware training by distillation (Liu et al., "LLM-QAT", arXiv 2305.17888). Activations
and cache are rounded, and gradients pass straight through that. `calibration.tuned` puts the errors
of rounding into the weights before. Adam (Kingma and Ba, arXiv 1412.6980) moves a weight by a share
of its matrix's root mean square, so one rate serves all matrices and models. Embedding, norms,
biases and lm_head stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import nn

from resq_onnx.calibration.training.loss import divergence
from resq_onnx.calibration.training.simulated_model import SimulatedModel
from resq_onnx.calibration.training.simulation import bases_of
from resq_onnx.families import ModelLayout

clock: Final = time.monotonic

RATE: Final = 2e-4
"""Of the largest step, relative to the root mean square of a matrix; it falls linearly to 0. Twice
this leaves SmolLM2-135M 2 % further from the float model after five minutes."""

BETAS: Final = (0.9, 0.95)
"""Adam's: there are some hundred steps, too few for the usual 0.999."""

WARM_UP: Final = 5
"""Steps until the largest one: Adam's first ones know the signs of the gradient alone."""

AVERAGES: Final = ("exp_avg", "exp_avg_sq")
"""Adam's, of a gradient and of its square, as PyTorch calls them."""

TIMED: Final = 2
"""Steps that are timed, and change nothing; the fastest counts."""

Advance = Callable[[int, int], None]


def _ignore(*_of_progress: Any) -> None:
    pass


def linear_weights(model: nn.Module, layout: ModelLayout) -> dict[str, torch.Tensor]:
    """The matrices of all layers, by the names of their parameters."""
    layers = [layout.family.layer.format(layer) for layer in range(layout.num_layers)]
    return {
        f"{layer}.{name}.weight": module.weight
        for layer in layers
        for name, module in model.get_submodule(layer).named_modules()
        if isinstance(module, nn.Linear)
    }


class Tuning:
    """The weights of a model being tuned: a step reads one sequence.

    Attributes:
        weights: What is tuned, by the parameters' names.
    """

    def __init__(self, simulated: SimulatedModel) -> None:
        """Begin with a model that is still float; `run` changes its layers' matrices."""
        self._simulated, self._sequences = simulated, simulated.sequences
        self._bases = bases_of(simulated.projections, simulated.device)
        self.weights = linear_weights(simulated.model, simulated.layout)
        self._expected: dict[int, torch.Tensor] = {}
        means = [one.detach().square().mean() for one in self.weights.values()]
        self._rates = [RATE * float(mean.sqrt()) for mean in means]
        self._optimiser = self._new_optimiser()

    def steps_within(self, seconds: float) -> int:
        """How many steps take so long, at least one; the weights do not change."""
        began = clock()
        times, others = [], []
        for number in range(min(TIMED, len(self._sequences))):
            start = clock()
            self.expect(number + 1)
            middle = clock()
            self._step(number, 0.0)
            if torch.device(self._simulated.device).type == "cuda":
                torch.cuda.synchronize(self._simulated.device)
            others.append(middle - start)
            times.append(clock() - middle)
        self._optimiser = self._new_optimiser()
        rest = seconds - (clock() - began)
        first = rest / max(min(times) + min(others), 1e-6)  # each on a new sequence
        again = (rest - len(self._sequences) * min(others)) / max(min(times), 1e-6)
        return max(1, int(first if first <= len(self._sequences) else again))

    def expect(self, steps: int, advance: Advance = _ignore, first: int = 0) -> None:
        """Run the float model on the sequences of so many steps, while it is still that.

        Args:
            steps: Number of steps.
            advance: Called after each sequence with the number of finished ones and of all.
            first: Steps that are finished: their sequences are left out, unless read again.
        """
        places = {self._simulated.place_of(step) for step in range(first, steps)}
        missing = sorted(places - self._expected.keys())
        for done, place in enumerate(missing, start=1):
            self._expected[place] = self._simulated.float_hidden(place).cpu()
            advance(done, len(missing))

    def run(
        self,
        steps: int,
        advance: Advance = _ignore,
        keep: Callable[[int], None] = _ignore,
        first: int = 0,
    ) -> None:
        """Tune; the sequences of the steps are expected.

        Args:
            steps: Number of steps; it also decides how large each one is.
            advance: Called after each step with the number of finished steps and of all.
            keep: Called after each step with the number of finished steps.
            first: Steps that are finished: `go_on_from` has set their state.
        """
        places = {self._simulated.place_of(step) for step in range(first, steps)}
        assert places <= self._expected.keys(), "the model is still float"
        for step in range(first, steps):
            rising, falling = (step + 1) / WARM_UP, (steps - step) / steps
            self._step(step, min(rising, falling))
            advance(step + 1, steps)
            keep(step + 1)

    def state(self, name: str) -> dict[str, torch.Tensor]:
        """What the next steps depend on, of a matrix that a step has changed."""
        weight = self.weights[name]
        averages = self._optimiser.state[weight]
        return {"weight": weight.detach(), **{key: averages[key] for key in AVERAGES}}

    def go_on_from(self, name: str, state: Mapping[str, torch.Tensor], done: int) -> None:
        """Continue a matrix from its state after so many steps."""
        weight = self.weights[name]
        with torch.no_grad():
            weight.copy_(state["weight"])
        averages = {key: state[key].to(weight.device) for key in AVERAGES}
        steps = torch.tensor(float(done), device=weight.device)
        self._optimiser.state[weight] = {"step": steps, **averages}

    def loss(self, number: int = 0) -> float:
        """The KL divergence on a sequence, in nats; the weights get its gradient."""
        place = self._simulated.place_of(number)
        expected = self._expected[place].to(self._simulated.device)

        def loss(head: nn.Module, hidden: torch.Tensor, _token_ids: torch.Tensor) -> torch.Tensor:
            return divergence(head, hidden[0], expected)

        return self._simulated.backward(number, loss, self._bases, list(self.weights.values()))

    def _step(self, number: int, rate: float) -> None:
        self.loss(number)
        for group, full in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = full * rate
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def _new_optimiser(self) -> torch.optim.Optimizer:
        groups = [{"params": [weight]} for weight in self.weights.values()]
        return torch.optim.Adam(groups, betas=BETAS, fused=True)
