"""Lower bounds of one decoder layer on several cards, beside what ResQ's authors measured.

    python -m scripts.cuda_evidence --only roofline

The paper times one decoder layer on an RTX 3090 against float16: a prompt of 2048 tokens, and one
token after 2047.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from scripts.cuda_roofline import CARDS, Gpu, floor
from scripts.cuda_work import Call, Model, layer, prompt, step

PAPER: Final = (2.45, 1.61)
"""Measured on an RTX 3090 (arXiv 2412.14363): a prompt, and a token after it."""

LENGTH: Final = 2048
CALLS: Final = (prompt(LENGTH), step(1, LENGTH))

SYNCHRONOUS: Final = 0.63
"""Share of Hopper's peak that mma.sync reaches, the instruction that our kernels use; cuBLAS uses
wgmma, which reaches it (arXiv 2402.13499)."""

HOPPER: Final = ("H100", "H200")


@dataclass(frozen=True)
class Layer:
    """Floors of one decoder layer, in seconds."""

    ours: float
    half: float

    @property
    def ratio(self) -> float:
        """How many times as fast as float16 ours can be."""
        return self.half / self.ours


def layer_floor(model: Model, call: Call, gpu: Gpu, share: float = 1.0) -> Layer:
    """The floors of a decoder layer; ours reaches a share of tensor cores' peak, float16 all."""
    tensor = {unit: share * peak for unit, peak in gpu.tensor.items()}
    slower = dataclasses.replace(gpu, tensor=tensor)
    items = list(layer(model, call, gpu.has_int4))
    ours = sum(floor(item.ours, slower).seconds for item in items)
    return Layer(ours, sum(floor(item.half, gpu).seconds for item in items))


def layer_table(model: Model) -> Iterator[str]:
    """Lines of the table of one decoder layer."""
    yield (
        f"| card | prompt of {LENGTH}: ours µs, float16 µs | times as fast "
        f"| 1 × 1 after {LENGTH - 1}: ours µs, float16 µs | times as fast |"
    )
    yield "|---" * 5 + "|"
    for gpu in CARDS:
        yield _row(gpu.name, [layer_floor(model, call, gpu) for call in CALLS])
        if gpu.name in HOPPER:
            found = [layer_floor(model, call, gpu, SYNCHRONOUS) for call in CALLS]
            yield _row(f"{gpu.name}, ours at {SYNCHRONOUS:.0%}".replace("%", " %"), found)
    yield f"| 3090, measured in the paper | | {PAPER[0]} | | {PAPER[1]} |"


def _row(name: str, found: list[Layer]) -> str:
    cells = [name]
    for one in found:
        cells += [f"{1e6 * one.ours:.1f}, {1e6 * one.half:.1f}", f"{one.ratio:.2f}"]
    return f"| {' | '.join(cells)} |"
