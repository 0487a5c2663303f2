"""What PyTorch computes inside one layer: values around its linear layers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resq_onnx.calibration.layered import LayeredModel
from resq_onnx.families import ModelLayout
from resq_onnx.graph.pieces import HALVES


def half_values(
    model: LayeredModel, layout: ModelLayout, layer: int, out: str, stream: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """The values of `graph.pieces.half_values`, as PyTorch has them on a short text.

    Args:
        model: The model.
        layout: Its layout.
        layer: Which layer.
        out: The role of a half layer's last linear layer, a key of `HALVES`.
        stream: The residual stream before the layer, (B, S, D).
    """
    first = list(dict.fromkeys(layout.family.stored_in(role) for role in HALVES[out]))
    joined: dict[str, torch.Tensor] = {}
    ends: list[torch.Tensor] = []

    def keep(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: joined.update({name: output})

    def keep_ends(_module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ends.extend((inputs[0], output))

    with model.layer(layer) as module, torch.inference_mode(), ExitStack() as hooks:
        for name in first:
            hook = module.get_submodule(name).register_forward_hook(keep(name))
            hooks.callback(hook.remove)
        last = module.get_submodule(getattr(layout.family, out))
        hooks.callback(last.register_forward_hook(keep_ends).remove)
        hidden = torch.from_numpy(np.array(stream)).to(model.device)
        model.calls(*stream.shape[:2])[layer].run(module, hidden)
    parts = [joined[name] for name in first]
    return [one.cpu().numpy() for one in (torch.cat(parts, dim=-1), *ends)]
