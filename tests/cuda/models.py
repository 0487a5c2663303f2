"""Exported models, what they are compared with, and how near they have to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.evaluation.distance import compare
from resq_onnx.runtime import Decoder, create_session
from resq_onnx.runtime.library import CPU_DTYPES

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]

NOISE: Final[dict[str, float]] = {"float32": 0.1, "float16": 0.1, "bfloat16": 0.25}
"""Divergence from the CPU that a tiny model may have, of that which quantising it costs. A float
sum in another order moves an integer here and there, and all tokens after it a little: kernels and
function bodies on a CPU are 0.005 apart at most. A bit flipped in every row of the cache makes
0.14, a token that attention forgets 3. Rounding to bfloat16 moves what it moves further."""

REAL_NOISE: Final = 0.3
"""The same of SmolLM2, in nats per token: there kernels and bodies on a CPU are 0.2 apart, two
draws of the same rounding noise through thirty layers."""


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        path: The .onnx file.
        rotated: The same model before it was quantised.
        dtype: Of its activations.
    """

    path: Path
    rotated: Path
    dtype: str

    def open(self, provider: str) -> Any:
        """A session with kernels; on the CPU without, if it has none for this type."""
        kernels = provider != "cpu" or self.dtype in CPU_DTYPES
        return create_session(self.path, threads=2, provider=provider, kernels=kernels)

    def on_cpu(self, ids: TokenIds) -> Logits:
        """Logits (B, S, vocabulary) of one pass on the CPU."""
        return Decoder(self.open("cpu")).run(ids)[0]


def assert_near(found: Logits, exported: Exported, ids: TokenIds, start: int = 0) -> None:
    """The logits of tokens from `start` on are those of the CPU, see `NOISE`."""
    floats = Decoder(create_session(exported.rotated, threads=2)).run(ids)[0]
    quantisation = divergence(floats, exported.on_cpu(ids), ids, start)
    assert_within(NOISE[exported.dtype] * quantisation, found, exported, ids, start)


def assert_within(
    nats: float, found: Logits, exported: Exported, ids: TokenIds, start: int = 0
) -> None:
    """The logits of tokens from `start` on diverge by no more from those of the CPU."""
    assert np.isfinite(found).all()
    noise = divergence(exported.on_cpu(ids), found, ids, start)
    print(f"KL {noise:.2e} nats per token from the CPU; {nats:.2e} are allowed")
    assert noise <= nats


def divergence(wanted: Logits, found: Logits, ids: TokenIds, start: int) -> float:
    """Nats per token, from `start` on; `found` may begin there."""
    wanted, found = wanted[:, start:], found[:, start - wanted.shape[1] :]
    assert found.shape == wanted.shape
    return compare(wanted, found, ids[:, start:]).kl_divergence
