"""Sequential Hessians: second moments of each layer with all layers before it quantised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from resq_onnx.families import ModelLayout
from resq_onnx.projections.moments import Moments

Array = NDArray[Any]


class _CaughtError(Exception):
    """Ends a pass once the first layer's inputs are known."""


class LayerByLayer:
    """Runs the calibration text through a model layer by layer, while layers are quantised."""

    def __init__(self, model: Any, layout: ModelLayout, text: Array, wanted: bool) -> None:
        self._model, self._layout = model, layout
        self._states: list[torch.Tensor] = []
        self._others: list[dict[str, Any]] = []
        if wanted:
            self._catch_inputs(text)

    def _catch_inputs(self, text: Array) -> None:
        def catch(_module: nn.Module, inputs: tuple[torch.Tensor, ...], others: Any) -> None:
            self._states.append(inputs[0])
            self._others.append(others)
            raise _CaughtError

        handle = self._layer(0).register_forward_pre_hook(catch, with_kwargs=True)
        with torch.inference_mode():
            for row in text:
                with suppress(_CaughtError):
                    self._model(input_ids=torch.from_numpy(row[None]), use_cache=False)
        handle.remove()

    def moments(self, layer: int) -> Moments:
        """Second moments of the current inputs in one layer; those of other layers are zero."""
        moments = Moments.zeros(self._layout)
        with _recording(self._model, self._layout, layer, moments):
            self._run(layer)
        return moments

    def advance(self, layer: int) -> None:
        """Run the states through a layer."""
        self._states = self._run(layer)

    def _run(self, layer: int) -> list[torch.Tensor]:
        results = []
        with torch.inference_mode():
            for state, others in zip(self._states, self._others, strict=True):
                out = self._layer(layer)(state, **others)
                results.append(out[0] if isinstance(out, tuple) else out)
        return results

    def _layer(self, layer: int) -> nn.Module:
        module: nn.Module = self._model.get_submodule(self._layout.family.layer.format(layer))
        return module


@contextmanager
def _recording(
    model: nn.Module, layout: ModelLayout, layer: int, moments: Moments
) -> Iterator[None]:
    """Sum the second moments of the (quantised) inputs of a layer's four linear layers."""

    def add(total: Array) -> Callable[..., None]:
        def record(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2).double()
            total[...] += (rows.T @ rows).numpy()

        return record

    handles = [
        model.get_submodule(layout.module(layer, role)).register_forward_pre_hook(add(total[layer]))
        for role, total in (
            ("query", moments.hidden_attention),
            ("gate", moments.hidden_mlp),
            ("attention_out", moments.attention_out),
            ("down", moments.down),
        )
    ]
    yield
    for handle in handles:
        handle.remove()
