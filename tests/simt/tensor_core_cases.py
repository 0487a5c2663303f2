"""Attention that has kernels for tensor cores: in 16 bits, of at least 16 new tokens."""

from __future__ import annotations

from typing import Final

from tests.custom_ops.attention_cases import form_of
from tests.functions.attention_cases import Shape

ROUNDINGS: Final = 4
"""What tensor cores make of attention, in roundings of the largest value: keys, queries, weights
and values are rounded to T, and a score's error, which softmax makes one of its weight, is that of
a sum of some such products. Found are up to 3."""

MANY: Final = {
    "head of 64, three for each kv head": form_of(heads=9, shared=3, dim=64),
    "head of 80": form_of(dim=80, high=10),
    "head of 96, odd parts": form_of(dim=96, low_bits=8, high=3),
    "head of 128": form_of(heads=4, shared=1, dim=128),
    "window": form_of(heads=2, shared=2, dim=64, window=9),
    "capped scores": form_of(heads=2, shared=1, dim=64, caps_scores=True),
    "without high part": form_of(dim=64, high=0),
    "high part alone": form_of(dim=64, high=64),
}
"""Forms that have a kernel for tensor cores."""

LONG: Final = {
    "prefill of one tile": Shape(1, 16, 16, 0),
    "prefill, batch of 2": Shape(2, 70, 70, 0),
    "on a past": Shape(2, 33, 130, 97),
    "into a buffer": Shape(1, 64, 129, 160),
}
"""At least 16 new tokens, as many as tensor cores are used for."""
