"""Exported models, what they are compared with, and how near they have to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.custom_ops import CPU_DTYPES
from resq_onnx.evaluation.parity import DIVERGENCE_FLOOR, compare
from resq_onnx.runtime import Decoder, create_session

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]

NOISE: Final = 1.0
"""Divergence from the CPU, of that which quantising the model costs. A float sum in another order
moves an integer here and there, and all tokens after it a little: two draws of the same rounding
noise. On tiny models a bit flipped in every row of the cache makes a seventh of this, a token that
attention forgets three times as much."""


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
    wanted = exported.on_cpu(ids)[:, start:]
    floats = Decoder(create_session(exported.rotated, threads=2)).run(ids)[0][:, start:]
    assert found.shape == wanted.shape
    assert np.isfinite(found).all()
    quantisation = compare(floats, wanted, ids[:, start:]).kl_divergence
    noise = compare(wanted, found, ids[:, start:]).kl_divergence
    print(f"KL {noise:.2e} nats from the CPU; of the CPU from the float model {quantisation:.2e}")
    assert noise <= max(NOISE * quantisation, DIVERGENCE_FLOOR)
