"""What training does to a model and chance does not: sizes of channels, and a first token apart.

1. The layers write some channels of the residual stream larger than others: through the gains of
   the norms that end their blocks, over orders of magnitude, where a family has such norms; else
   through the rows of o_proj and down_proj, a few of them far above the rest.
2. The gains of the norms that read the stream take that back.
3. BOS writes one channel larger than anything else, so that a text has a token unlike all others.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from resq_onnx.families import ModelLayout

BOS: Final = 1
BOS_FACTOR: Final = 20.0

OUTLIERS: Final = 2
OUTLIER_FACTOR: Final = 30.0

SPREAD_OF_GAINS: Final = 2.5
SPREAD_OF_ROWS: Final = 0.3
"""Standard deviations of the logarithm of a channel's size."""


def make_lifelike(model: nn.Module, layout: ModelLayout, seed: int) -> None:
    """Give a random model's channels sizes, in place."""
    generator = torch.Generator().manual_seed(seed)
    spread = SPREAD_OF_GAINS if layout.post_norms else SPREAD_OF_ROWS
    sizes = torch.exp(spread * torch.randn(layout.hidden_size, generator=generator))
    sizes[:OUTLIERS] *= OUTLIER_FACTOR
    with torch.no_grad():
        model.get_parameter(f"{layout.family.embedding}.weight")[BOS, 0] *= BOS_FACTOR
        for layer in range(layout.num_layers):
            for role in layout.post_norms:
                _scale_gain(model, layout, layout.module(layer, role), sizes)
            if not layout.post_norms:
                for role in ("attention_out", "down"):
                    name = f"{layout.module(layer, role)}.weight"
                    model.get_parameter(name).mul_(sizes[:, None])
            _scale_gain(model, layout, layout.module(layer, "mlp_norm"), 1 / sizes)
            if layer:
                _scale_gain(model, layout, layout.module(layer, "attention_norm"), 1 / sizes)
        _scale_gain(model, layout, layout.family.final_norm, 1 / sizes)


def _scale_gain(model: nn.Module, layout: ModelLayout, norm: str, factors: torch.Tensor) -> None:
    stored = model.get_parameter(f"{norm}.weight")
    offset = 1.0 if layout.family.offset_gains else 0.0
    stored.copy_((stored + offset) * factors - offset)
