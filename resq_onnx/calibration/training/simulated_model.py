"""A model with simulated quantisation, run forwards and backwards on the sequences of a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resq_onnx.calibration.training.backward import learning, recomputing
from resq_onnx.calibration.training.loss import last_hidden
from resq_onnx.calibration.training.precision import fast_products
from resq_onnx.calibration.training.simulation import Bases, Parts, parts_by_recipe, simulated
from resq_onnx.families import ModelLayout
from resq_onnx.projections import Projections
from resq_onnx.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TextLoss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""The loss, of lm_head, what it reads, (1, tokens, D), and the token ids, (1, tokens)."""


@dataclass(frozen=True)
class SimulatedModel:
    """A model whose activations and cache are rounded, and the text from which it learns.

    Attributes:
        model: The original model, on the device.
        layout: Its sizes and module names.
        recipe: Its method, bits, clip and seed are used.
        projections: The bases in which activations and cache are rounded.
        text: Token ids, (samples, tokens).
        device: Where the model is.
        recomputes: Whether each layer runs once more in the backward pass, so that only its input
            is kept until then.
    """

    model: PreTrainedModel
    layout: ModelLayout
    recipe: Recipe
    projections: Projections
    text: NDArray[np.int64]
    device: str = "cpu"
    recomputes: bool = False

    @cached_property
    def sequences(self) -> list[torch.Tensor]:
        """The text on the device, (1, tokens) each, in a seeded order."""
        order = np.random.default_rng(self.recipe.seed).permutation(len(self.text))
        return [torch.from_numpy(row[None]).to(self.device) for row in self.text[order]]

    @cached_property
    def parts(self) -> Parts:
        """The quantised parts of each site."""
        return parts_by_recipe(self.recipe, self.projections)

    def place_of(self, step: int) -> int:
        """Which sequence a step reads: after the last the first comes again."""
        return step % len(self.sequences)

    @torch.no_grad()
    def float_hidden(self, place: int) -> torch.Tensor:
        """What lm_head reads of a sequence, (tokens, D), without quantisation."""
        with fast_products(self.device):
            return last_hidden(self.model, self.sequences[place])[0]

    def backward(
        self, step: int, loss: TextLoss, bases: Bases, weights: Sequence[torch.Tensor] = ()
    ) -> float:
        """The loss on the sequence of a step; what it depends on gets its gradient.

        Args:
            step: Its number.
            loss: The loss.
            bases: Those of this step.
            weights: Weights of the model that get a gradient.
        """
        token_ids = self.sequences[self.place_of(step)]
        head = cast(Any, self.model).get_output_embeddings()
        of_model = (self.model, self.layout, self.projections, self.parts)
        with fast_products(self.device), ExitStack() as stack:
            stack.enter_context(learning(self.model, weights))
            if self.recomputes:
                stack.enter_context(recomputing(self.model, self.layout))
            stack.enter_context(simulated(*of_model, lambda: bases))
            found = loss(head, last_hidden(self.model, token_ids), token_ids)
            found.backward()
        return float(found.detach())
