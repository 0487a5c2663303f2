"""Texts of unequal lengths in one call, and each of them by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.functions import RotaryForm
from tests.functions import attention_cases as cases
from tests.functions.attention_cases import Shape

Array = NDArray[Any]

PAIRS: Final = (("past_key", "present_key"), ("past_value", "present_value"))
"""Inputs and outputs of the cache."""


@dataclass(frozen=True)
class Ragged:
    """Sizes of one call.

    Attributes:
        cached: Old tokens of each text.
        cache_rows: Row of each text.
        new: New tokens of each.
        capacity: Slots of a row.
        row_count: Rows of the cache.
        spare: Columns of the mask behind those of the longest text.
    """

    cached: tuple[int, ...]
    cache_rows: tuple[int, ...]
    new: int
    capacity: int
    row_count: int
    spare: int = 0

    @property
    def total(self) -> int:
        """Columns of the mask."""
        return max(self.cached) + self.new + self.spare


SHAPES: Final = {
    "one text": Ragged((4,), (0,), 2, 6, 1),
    "nothing cached": Ragged((0, 0), (1, 0), 3, 5, 2),
    "rows of others between": Ragged((0, 7, 3), (4, 0, 2), 1, 9, 5),
    "a mask wider than any text": Ragged((7, 1), (1, 2), 2, 12, 3, spare=3),
}


def calls(form: RotaryForm, shape: Ragged, *, exact: bool, seed: int = 1) -> dict[str, Array]:
    """What changes with every call; the positions are the slots."""
    batch = len(shape.cached)
    whole = Shape(shape.row_count, shape.new, shape.capacity, shape.capacity)
    arrays = cases.calls(form, whole, exact=exact, seed=seed)
    cached = np.array(shape.cached, np.int64)
    arrays |= {
        "QKV": arrays["QKV"][:batch],
        "attention_mask": np.ones((batch, shape.total), np.int64),
        "cached": cached,
        "cache_rows": np.array(shape.cache_rows, np.int64),
    }
    if form.position_ids:
        arrays["position_ids"] = cached[:, None] + np.arange(shape.new)
    return arrays


def alone(arrays: Mapping[str, Array], text: int) -> dict[str, Array]:
    """The call with one of the texts only, whose cache holds nothing else."""
    cached, row = int(arrays["cached"][text]), int(arrays["cache_rows"][text])
    total = cached + arrays["QKV"].shape[1]
    kept = {name: a for name, a in arrays.items() if name not in ("cached", "cache_rows")}
    kept |= {
        "QKV": arrays["QKV"][text : text + 1],
        "attention_mask": arrays["attention_mask"][text : text + 1, :total],
        **{past: arrays[past][row : row + 1, :, :cached] for past, _ in PAIRS},
    }
    if "position_ids" in arrays:
        kept["position_ids"] = arrays["position_ids"][text : text + 1]
    return kept


def together(arrays: Mapping[str, Array], found: list[list[Array]]) -> list[Array]:
    """What the call has to give, from what each of its texts gives alone: Y and both caches."""
    caches = [arrays[past].copy() for past, _ in PAIRS]
    for text, (_, *presents) in enumerate(found):
        for cache, present in zip(caches, presents, strict=True):
            cache[arrays["cache_rows"][text], :, : present.shape[2]] = present[0]
    return [np.concatenate([y for y, *_ in found]), *caches]
