"""Models as a user may have exported them: by torch.onnx.export, in several ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.export import Dim
from transformers import DynamicCache, PreTrainedModel

from resq_onnx.checkpoint.quiet import quiet_libraries

BATCH, TOKENS, PAST = 2, 5, 7


class Logits(nn.Module):
    """A model without a cache, given a mask."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.wrapped = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.wrapped(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).logits
        return found


class Cached(nn.Module):
    """A model with its cache as tensors."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        cache: Any = DynamicCache()
        for layer, (key, value) in enumerate(past):
            cache.update(key, value, layer)
        found = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return found.logits, [(layer.keys, layer.values) for layer in cache.layers]


def export_plain(model: PreTrainedModel, path: Path, **options: Any) -> None:
    """The model itself, of fixed sizes; positions and masks become constants."""
    model.config.use_cache = False
    _export(model, path, {"input_ids": _integers(TOKENS)}, None, **options)


def export_unoptimised(model: PreTrainedModel, path: Path) -> None:
    """The same as torch.export traced it."""
    export_plain(model, path, optimize=False)


def export_with_mask(model: PreTrainedModel, path: Path) -> None:
    """Without a cache, for any batch and length."""
    arguments = {"input_ids": _integers(TOKENS), "attention_mask": _integers(TOKENS)}
    batch, tokens = Dim("batch"), Dim("tokens")
    sizes = {name: {0: batch, 1: tokens} for name in arguments}
    _export(Logits(model).eval(), path, arguments, sizes)


def export_with_cache(model: PreTrainedModel, path: Path) -> None:
    """With a cache, for any batch, length and past."""
    text = model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    shape = (BATCH, text.num_key_value_heads, PAST, head_dim)
    layers = range(text.num_hidden_layers)
    arguments = {
        "input_ids": _integers(TOKENS),
        "attention_mask": _integers(PAST + TOKENS),
        "position_ids": torch.arange(PAST, PAST + TOKENS).expand(BATCH, -1),
        "past": [(torch.zeros(shape), torch.zeros(shape)) for _ in layers],
    }
    batch, tokens, past = Dim("batch"), Dim("tokens"), Dim("past")
    record = {0: batch, 2: past}
    sizes = {
        "input_ids": {0: batch, 1: tokens},
        "attention_mask": {0: batch, 1: "total"},
        "position_ids": {0: batch, 1: tokens},
        "past": [(record, record) for _ in layers],
    }
    _export(Cached(model).eval(), path, arguments, sizes)


WAYS: Final[dict[str, Callable[[PreTrainedModel, Path], None]]] = {
    "plain": export_plain,
    "unoptimised": export_unoptimised,
    "with mask": export_with_mask,
    "with cache": export_with_cache,
}


def _integers(length: int) -> torch.Tensor:
    return torch.ones(BATCH, length, dtype=torch.int64)


def _export(
    model: nn.Module, path: Path, arguments: dict[str, Any], sizes: Any, **options: Any
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with quiet_libraries():
        torch.onnx.export(
            model,
            kwargs=arguments,
            f=str(path),
            dynamo=True,
            dynamic_shapes=sizes,
            verbose=False,
            **options,
        )
