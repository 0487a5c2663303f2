"""Faster matrix products, where their inputs need not be as exact as float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

PRECISION: Final = "medium"
"""PyTorch may round the inputs of float32 products to bfloat16, which has 8 bits: less than what
rounding activations to 4 bits changes. It does where the processor multiplies those faster."""


@contextmanager
def fast_products() -> Iterator[None]:
    """Compute products of float32 matrices with `PRECISION` inside the context."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISION)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
