"""Rows of what is rounded in each basis: a sample of all layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Samples:
    """Rows in 16 bits, one for each token; layers are alike in their number.

    Attributes:
        hidden: The inputs of q/k/v and of gate/up of all layers, as U_A is applied to them,
            (2 · layers · tokens, D).
        value: (layers, kv heads, tokens, d).
        key: After RoPE, (layers, kv heads, tokens, d).
    """

    hidden: torch.Tensor
    value: torch.Tensor
    key: torch.Tensor
