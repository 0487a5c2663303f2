"""Tiny random models, and their second moments computed the slow and obvious way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from resq_onnx.families import ModelLayout, layout_of
from resq_onnx.projections.moments import Moments

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def tiny_llama(seed: int = 0) -> PreTrainedModel:
    """A Llama with grouped heads whose norms have gains of their own."""
    return _randomise(LlamaForCausalLM(LlamaConfig(**SIZES)), seed)


def tiny_qwen2(seed: int = 0) -> PreTrainedModel:
    """A Qwen2 with biases on q, k and v."""
    return _randomise(Qwen2ForCausalLM(Qwen2Config(**SIZES)), seed)


def layout(model: PreTrainedModel) -> ModelLayout:
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    return layout_of(config, "tiny")


def sequences(samples: int, length: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], (samples, length))


def _randomise(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            offset = 1.0 if "norm" in name else 0.0
            parameter.copy_(offset + 0.3 * torch.randn(parameter.shape, generator=generator))
    model.eval()
    return model


def obvious_moments(model: PreTrainedModel, tokens: NDArray[np.int64]) -> Moments:
    """Second moments in float64, one token vector at a time, from the modules' own outputs.

    Hidden sites are found by undoing the norm's gain; keys by rotating k_proj's output here.
    """
    model = model.double()
    sizes = layout(model)
    moments = Moments.zeros(sizes)
    seen: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(_keep(seen, name)) for name, module in model.named_modules()
    ]
    try:
        for row in tokens:
            with torch.no_grad():
                model(torch.from_numpy(row[None]))
            for layer in range(sizes.num_layers):
                _add_layer(model, sizes, moments, layer, seen)
            moments.tokens += len(row)
    finally:
        for handle in handles:
            handle.remove()
        model.float()
    return moments


def _keep(seen: dict[str, torch.Tensor], name: str) -> Any:
    def keep(_module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor):
            seen[name + ":in"] = inputs[0]
        if isinstance(output, torch.Tensor):
            seen[name] = output

    return keep


def _add_layer(
    model: PreTrainedModel,
    sizes: ModelLayout,
    moments: Moments,
    layer: int,
    seen: dict[str, torch.Tensor],
) -> None:
    for role, total in (
        ("attention_norm", moments.hidden_attention),
        ("mlp_norm", moments.hidden_mlp),
    ):
        name = sizes.module(layer, role)
        gain = model.get_parameter(name + ".weight")
        _outer(total[layer], (seen[name] / gain)[0])
    _outer(moments.attention_out[layer], seen[sizes.module(layer, "attention_out") + ":in"][0])
    _outer(moments.down[layer], seen[sizes.module(layer, "down") + ":in"][0])
    keys = seen[sizes.module(layer, "key")][0].unflatten(-1, (sizes.num_kv_heads, sizes.head_dim))
    values = seen[sizes.module(layer, "value")][0].unflatten(-1, keys.shape[1:])
    for head in range(sizes.num_kv_heads):
        _outer(moments.value[layer, head], values[:, head])
        _outer(moments.key[layer, head], _rotate(keys[:, head]))


def _rotate(keys: torch.Tensor, base: float = 10000.0) -> torch.Tensor:
    """RoPE: pair (i, i + d/2) of the key at place p is turned by p · base^(-2i/d)."""
    tokens, size = keys.shape
    turned = keys.clone()
    for place in range(tokens):
        for i in range(size // 2):
            angle = torch.tensor(place * base ** (-2 * i / size), dtype=torch.float64)
            first, second = keys[place, i], keys[place, i + size // 2]
            turned[place, i] = first * angle.cos() - second * angle.sin()
            turned[place, i + size // 2] = second * angle.cos() + first * angle.sin()
    return turned


def _outer(total: NDArray[np.float64], rows: torch.Tensor) -> None:
    for row in rows:
        total += np.outer(row.detach().numpy(), row.detach().numpy())
