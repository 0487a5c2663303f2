"""Faster matrix products, where their inputs need not be as exact as float32."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

import torch

from resq_onnx.projections.linalg import products

clock: Final = time.perf_counter

PRECISION: Final = "medium"
"""PyTorch may round the inputs of float32 products to bfloat16, which has 8 bits: less than what
rounding activations to 4 bits changes."""

SHAPE: Final = (512, 576, 1536)
ROUNDS: Final = 7
"""What is timed, and how often; the fastest counts."""

FASTER: Final = 1.2
"""By how much such products must be faster to be used. It is 2.3 with AVX-512-BF16 on an AMD EPYC
(Zen 5), and 1 without such instructions. Some CPUs have them, and are slower with them."""


@contextmanager
def fast_products(device: str = "cpu") -> Iterator[None]:
    """Compute products of float32 matrices with `PRECISION` inside, if a CPU is faster so."""
    if device != "cpu" or not are_faster():
        yield
        return
    with products(PRECISION):
        yield


@cache
def are_faster() -> bool:
    """Whether this processor computes such products faster, by trying it."""
    rows, inner, columns = SHAPE
    of = torch.ones(rows, inner), torch.ones(columns, inner)
    times = [(_seconds(*of, "highest"), _seconds(*of, PRECISION)) for _ in range(ROUNDS)]
    exact, fast = (min(column) for column in zip(*times, strict=True))
    return bool(exact > FASTER * fast)


def _seconds(left: torch.Tensor, right: torch.Tensor, precision: str) -> float:
    with products(precision):
        began = clock()
        torch.mm(left, right.T)
        return clock() - began
