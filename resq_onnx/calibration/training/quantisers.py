"""Fake quantisation of activations in PyTorch, as in the exported file, with a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from resq_onnx.functions import SMALLEST_SCALE
from resq_onnx.recipe import BitSplit


@dataclass(frozen=True)
class Part:
    """Columns that are quantised together.

    Attributes:
        width: Number of columns.
        bits: Bits of their integers.
        clip: Share of the range that the integers span.
    """

    width: int
    bits: int
    clip: float = 1.0

    @property
    def levels(self) -> int:
        """The largest integer."""
        return int(2**self.bits - 1)


def parts_of(split: BitSplit, low_clip: float = 1.0) -> tuple[Part, ...]:
    """The low and the high part of a split; parts of width 0 are omitted."""
    parts = (Part(split.low, split.low_bits, low_clip), Part(split.high, split.high_bits))
    return tuple(part for part in parts if part.width)


def fake_quantise(x: torch.Tensor, parts: Sequence[Part]) -> torch.Tensor:
    """Quantise and dequantise each row of x (..., width), asymmetrically.

    In the backward pass, rounding is the identity (a straight-through estimator).

    Args:
        x: Rows with the columns of the parts, in order.
        parts: Parts whose widths add up to that of x; if empty, x is returned unchanged.
    """
    if not parts:
        return x
    return straight_through(x, lambda rows: _all_rounded(rows, parts))


def straight_through(
    x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """A function of x whose gradient is that of x itself: nothing inside it is kept for that."""
    result: torch.Tensor = cast(Any, _StraightThrough).apply(x, function)
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        _context: Any, x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        return function(x)

    @staticmethod
    def backward(_context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def _all_rounded(x: torch.Tensor, parts: Sequence[Part]) -> torch.Tensor:
    columns = x.split([part.width for part in parts], dim=-1)
    return torch.cat([_rounded(*of) for of in zip(columns, parts, strict=True)], dim=-1)


def _rounded(x: torch.Tensor, part: Part) -> torch.Tensor:
    least = x.amin(-1, keepdim=True).clamp(max=0.0) * part.clip
    greatest = x.amax(-1, keepdim=True).clamp(min=0.0) * part.clip
    scale = ((greatest - least) / part.levels).clamp(min=SMALLEST_SCALE)
    zero = torch.round(-least / scale)
    return (x / scale).round_().add_(zero).clamp_(0, part.levels).sub_(zero).mul_(scale)
