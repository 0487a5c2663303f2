"""How a model takes part in a backward pass: what gets a gradient, and what is kept until then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.checkpoint import checkpoint

from resq_onnx.families import ModelLayout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def learning(model: PreTrainedModel, weights: Sequence[torch.Tensor] = ()) -> Iterator[None]:
    """Only these weights of the model get gradients inside the context; by default none."""
    before = [(p, p.requires_grad) for p in cast(Any, model).parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, takes_gradient in before:
            parameter.requires_grad_(takes_gradient)


@contextmanager
def recomputing(model: PreTrainedModel, layout: ModelLayout) -> Iterator[None]:
    """Keep only the inputs of layers for the backward pass, inside the context."""

    def again(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*inputs: Any, **named: Any) -> Any:
            return checkpoint(forward, *inputs, use_reentrant=False, **named)

        return run

    layers = [
        model.get_submodule(layout.family.layer.format(layer)) for layer in range(layout.num_layers)
    ]
    for layer in layers:
        layer.forward = again(layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
