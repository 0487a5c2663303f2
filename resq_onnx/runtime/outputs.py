"""What a model computes on a text, with which another one is compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of one model on a text of (B, S) tokens.

    Attributes:
        logits: (B, S, vocabulary).
        stream: The residual stream before the first layer, behind its attention, behind the layer,
            and so on, (2 layers + 1, B, S, D).
    """

    logits: NDArray[np.float32]
    stream: NDArray[np.float32]
