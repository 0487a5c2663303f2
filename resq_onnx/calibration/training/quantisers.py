"""Fake quantisation of activations in PyTorch, as in the exported file, with a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    columns = x.detach().split([part.width for part in parts], dim=-1)
    rounded = [_rounded(some, part) for some, part in zip(columns, parts, strict=True)]
    return x + (torch.cat(rounded, dim=-1) - x.detach())


def _rounded(x: torch.Tensor, part: Part) -> torch.Tensor:
    levels = 2**part.bits - 1
    least = x.amin(-1, keepdim=True).clamp(max=0.0) * part.clip
    greatest = x.amax(-1, keepdim=True).clamp(min=0.0) * part.clip
    scale = ((greatest - least) / levels).clamp(min=SMALLEST_SCALE)
    zero = torch.round(-least / scale)
    integers = (torch.round(x / scale) + zero).clamp(0, levels)
    value: torch.Tensor = (integers - zero) * scale
    return value
