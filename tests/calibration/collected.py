"""Rows of what is rounded, from a model that is wholly in memory: what a pass has to keep."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from resq_onnx.calibration.rows import Samples
from resq_onnx.families import ModelLayout


@torch.inference_mode()
def collect(model: Any, layout: ModelLayout, sequences: NDArray[np.int64]) -> Samples:
    """Run a Hugging Face model once, and keep the rows of all tokens in float32."""
    hidden: dict[tuple[str, int], torch.Tensor] = {}

    def keep(norm: tuple[str, int], _module: Any, inputs: Any, output: torch.Tensor) -> None:
        x = inputs[0]
        divided = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + layout.norm_epsilon)
        hidden[norm] = (output if layout.turns_inputs else divided).flatten(0, 1)

    layers = range(layout.num_layers)
    norms = [(role, layer) for role in ("attention_norm", "mlp_norm") for layer in layers]
    handles = [
        model.get_submodule(layout.module(layer, role)).register_forward_hook(
            partial(keep, (role, layer))
        )
        for role, layer in norms
    ]
    # The model's default cache would drop tokens that leave a sliding window.
    cache: Any = DynamicCache()
    model(torch.from_numpy(sequences), past_key_values=cache, use_cache=True)
    for handle in handles:
        handle.remove()
    value, key = (
        torch.stack([getattr(one, name).transpose(0, 1).flatten(1, 2) for one in cache.layers])
        for name in ("values", "keys")
    )
    return Samples(torch.cat([hidden[norm] for norm in norms]), value, key)
