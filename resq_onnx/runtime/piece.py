"""Run a piece of a float decoder graph (`graph.pieces`) without a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.runtime.session import create_session, running


class Piece:
    """A session of a piece."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Open the file; ONNX Runtime may not rewrite it, which would copy its weights.

        Raises:
            ResqError: It cannot be opened.
        """
        self._session = create_session(path, threads, kernels=False, optimise=False)

    def run(
        self, inputs: dict[str, NDArray[Any]], batch: int, tokens: int
    ) -> list[NDArray[np.float32]]:
        """Run it on (batch, tokens) tokens with nothing before them.

        Args:
            inputs: `input_ids` or the residual stream; others are ignored.
            batch: Number of texts.
            tokens: Tokens of each.
        """
        ones = np.ones((batch, tokens), np.int64)
        known = inputs | {"attention_mask": ones, "position_ids": ones.cumsum(axis=1) - 1}
        feeds = {}
        for value in self._session.get_inputs():
            feeds[value.name] = known.get(value.name)
            if feeds[value.name] is None:  # a cache, (B, kv heads, 0, d)
                _, heads, _, width = value.shape
                feeds[value.name] = np.zeros((batch, heads, 0, width), np.float32)
        with running():
            found: list[NDArray[np.float32]] = self._session.run(None, feeds)
        return found
