"""Tune the weights of the layers for rounded activations, towards the float model's predictions.

The loss is the KL divergence from the float model's distributions over the vocabulary, as in
quantisation-aware training by distillation (Liu et al., "LLM-QAT", arXiv 2305.17888), with
activations and cache rounded and weights in float: they are rounded afterwards. Gradients pass
straight through the rounding. Adam (Kingma and Ba, arXiv 1412.6980) moves a weight by a share of
its matrix's root mean square, so one rate serves all matrices and models. Embedding, norms, biases
and lm_head stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resq_onnx.calibration.training.backward import learning, recomputing
from resq_onnx.calibration.training.loss import divergence, last_hidden
from resq_onnx.calibration.training.simulation import bases_of, parts_by_recipe, simulated
from resq_onnx.families import ModelLayout
from resq_onnx.projections import Projections
from resq_onnx.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

clock: Final = time.monotonic

RATE: Final = 2e-4
"""Of the largest step, relative to the root mean square of a matrix; it falls linearly to 0. Twice
this leaves SmolLM2-135M 2 % further from the float model after five minutes."""

BETAS: Final = (0.9, 0.95)
"""Adam's: there are some hundred steps, too few for the usual 0.999."""

WARM_UP: Final = 5
"""Steps until the largest one: Adam's first ones know the signs of the gradient alone."""

TIMED: Final = 2
"""Steps that are timed, and change nothing; the fastest counts."""

Advance = Callable[[int, int], None]


def _ignore(*_of_progress: int) -> None:
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
        """Begin with the float model.

        Args:
            model: The original model, on the device; `run` changes its layers' matrices.
            layout: Its sizes and module names.
            recipe: Its bits, clip and seed are used.
            projections: The bases in which activations and cache are rounded.
            sequences: Token ids (samples, tokens), read in a seeded order, again and again.
            device: Where the model is.
            recomputes: Whether each layer runs once more in the backward pass, so that only its
                input is kept until then.
        """
        self._model, self._layout, self._projections = model, layout, projections
        self._parts = parts_by_recipe(recipe, projections)
        self._bases = bases_of(projections, device)
        self._device, self._recomputes = device, recomputes
        order = np.random.default_rng(recipe.seed).permutation(len(sequences))
        self._sequences = [torch.from_numpy(row[None]).to(device) for row in sequences[order]]
        self.weights = linear_weights(cast(Any, model), layout)
        self._expected: list[torch.Tensor] = []
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
            if torch.device(self._device).type == "cuda":
                torch.cuda.synchronize(self._device)
            others.append(middle - start)
            times.append(clock() - middle)
        self._optimiser = self._new_optimiser()
        rest = seconds - (clock() - began)
        first = rest / max(min(times) + min(others), 1e-6)  # each on a new sequence
        again = (rest - len(self._sequences) * min(others)) / max(min(times), 1e-6)
        return max(1, int(first if first <= len(self._sequences) else again))

    @torch.no_grad()
    def expect(self, steps: int, advance: Advance = _ignore) -> None:
        """Run the float model on the sequences of so many steps, while it is still that."""
        count = min(steps, len(self._sequences))
        for place in range(len(self._expected), count):
            self._expected.append(last_hidden(self._model, self._sequences[place])[0].cpu())
            advance(place + 1, count)

    def run(self, steps: int, advance: Advance = _ignore) -> None:
        """Tune; the sequences of the steps are expected.

        Args:
            steps: Number of steps; it also decides how large each one is.
            advance: Called after each step with the number of finished steps and of all.
        """
        assert len(self._expected) >= min(steps, len(self._sequences)), "the model is still float"
        for step in range(steps):
            rising, falling = (step + 1) / WARM_UP, (steps - step) / steps
            self._step(step, min(rising, falling))
            advance(step + 1, steps)

    def loss(self, number: int = 0) -> float:
        """The KL divergence on a sequence, in nats; the weights get its gradient."""
        token_ids = self._sequences[number % len(self._sequences)]
        expected = self._expected[number % len(self._sequences)].to(self._device)
        head = cast(Any, self._model).get_output_embeddings()
        with ExitStack() as stack:
            stack.enter_context(learning(self._model, list(self.weights.values())))
            if self._recomputes:
                stack.enter_context(recomputing(self._model, self._layout))
            stack.enter_context(self._simulated())
            loss = divergence(head, last_hidden(self._model, token_ids)[0], expected)
            loss.backward()
        return float(loss.detach())

    def _simulated(self) -> Any:
        model, layout, projections = self._model, self._layout, self._projections
        return simulated(model, layout, projections, self._parts, lambda: self._bases)

    def _step(self, number: int, rate: float) -> None:
        self.loss(number)
        for group, full in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = full * rate
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)

    def _new_optimiser(self) -> torch.optim.Optimizer:
        groups = [{"params": [weight]} for weight in self.weights.values()]
        return torch.optim.Adam(groups, betas=BETAS, fused=True)
