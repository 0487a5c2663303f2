"""Run any float decoder graph without a cache, whatever the names of its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError, first_line
from resq_onnx.runtime.session import create_session

DTYPES: Final = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
}


class PlainGraph:
    """A graph whose first output is logits; its inputs are identified by rank and name."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Open the graph.

        Raises:
            ResqError: ONNX Runtime cannot open it, or an input is unknown.
        """
        self._path = path
        self._session = create_session(path, threads, kernels=False)
        self._inputs = self._session.get_inputs()
        self._kinds = [self._kind(value) for value in self._inputs]
        pasts = self._shapes("cache")
        self._past = next((dim for _, _, dim, _ in pasts if isinstance(dim, int)), 0)

    def sizes(self, batch: int, tokens: int) -> tuple[int, int]:
        """Batch size and tokens per call: as requested, unless the graph fixes them."""
        for dims in self._shapes("ids"):
            batch, tokens = (
                dim if isinstance(dim, int) else wish
                for dim, wish in zip(dims, (batch, tokens), strict=True)
            )
        return batch, tokens

    def logits(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of token ids (B, S) with nothing before them: (B, S, vocabulary).

        Raises:
            ResqError: The graph cannot be run on them, or its first output is not logits.
        """
        feeds = {
            value.name: self._feed(value, kind, token_ids)
            for value, kind in zip(self._inputs, self._kinds, strict=True)
        }
        name = self._session.get_outputs()[0].name
        try:
            (logits,) = self._session.run([name], feeds)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise ResqError(
                f"{self._path}: cannot be run on tokens alone: {first_line(error)}"
            ) from None
        found = np.asarray(logits, np.float32)
        if found.shape[:2] != token_ids.shape or found.ndim != 3:
            raise ResqError(
                f"{self._path}: its first output has shape {found.shape} for tokens "
                f"{token_ids.shape}; it must be the logits of all tokens"
            )
        return found

    def _kind(self, value: Any) -> str:
        rank, name = len(value.shape), value.name.lower()
        if rank == 4 and "mask" not in name:
            return "cache"
        if rank == 2 and value.type in DTYPES:
            return next((kind for kind in ("mask", "position") if kind in name), "ids")
        raise ResqError(
            f"{self._path}: input {value.name}, {value.type} of shape {value.shape}, is neither "
            "token ids, a mask, positions nor a cache; export the model without it"
        )

    def _shapes(self, wanted: str) -> list[Any]:
        pairs = zip(self._inputs, self._kinds, strict=True)
        return [value.shape for value, kind in pairs if kind == wanted]

    def _feed(self, value: Any, kind: str, token_ids: NDArray[np.int64]) -> NDArray[Any]:
        (batch, tokens), dtype = token_ids.shape, DTYPES[value.type]
        if kind == "cache":  # the contents of a fixed-size cache are masked
            heads, size = value.shape[1], value.shape[3]
            return np.zeros((batch, heads, self._past, size), dtype)
        if kind == "mask":
            seen = np.arange(self._past + tokens) >= self._past
            return np.broadcast_to(seen, (batch, seen.size)).astype(dtype)
        if kind == "position":
            return np.broadcast_to(np.arange(tokens), (batch, tokens)).astype(dtype)
        return token_ids.astype(dtype)
