"""Faster matrix products, where their inputs need not be as exact as float32."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

import torch

clock: Final = time.perf_counter

PRECISION: Final = "medium"
"""PyTorch may round the inputs of float32 products to bfloat16, which has 8 bits: less than what
rounding activations to 4 bits changes."""

SHAPE: Final = (512, 576, 1536)
ROUNDS: Final = 7
"""What is timed, and how often; the fastest counts."""

FASTER: Final = 1.2
"""By how much such products must be faster to be used. It is 2 with AVX-512-BF16 on an AMD EPYC
(Zen 5), and 1 without such instructions: far enough to decide alike on a busy machine."""


@contextmanager
def fast_products(device: str = "cpu") -> Iterator[None]:
    """Compute products of float32 matrices with `PRECISION` inside, if that is faster."""
    before = torch.get_float32_matmul_precision()
    if device != "cpu" or are_faster():
        torch.set_float32_matmul_precision(PRECISION)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def are_faster() -> bool:
    """Whether this processor computes such products faster, by trying it."""
    before = torch.get_float32_matmul_precision()
    rows, inner, columns = SHAPE
    of = torch.ones(rows, inner), torch.ones(columns, inner)
    times = [
        {precision: _seconds(*of, precision) for precision in (before, PRECISION)}
        for _ in range(ROUNDS)
    ]
    torch.set_float32_matmul_precision(before)
    usual, fast = (min(one[precision] for one in times) for precision in (before, PRECISION))
    return usual > FASTER * fast


def _seconds(left: torch.Tensor, right: torch.Tensor, precision: str) -> float:
    torch.set_float32_matmul_precision(precision)
    began = clock()
    torch.mm(left, right.T)
    return clock() - began
