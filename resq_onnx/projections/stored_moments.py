"""Second moments in a projections file: written and read one layer at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.files.tensor_file import kind_of, tensor_file
from resq_onnx.projections.moments import (
    SITES,
    SecondMoments,
    checked_site,
    moment_shapes,
)
from resq_onnx.projections.triangles import pack, triangle_size, unpack

PREFIX: Final = "moments."
"""Names of the tensors: this and a site, (layers, ..., n (n + 1) / 2), float32."""


class StoredMoments:
    """Those of a file: `projections.moments.SecondMoments`."""

    def __init__(self, path: Path, tokens: int) -> None:
        """Take a file whose header was read."""
        self._path, self.tokens = path, tokens

    def site(self, layer: int, site: str) -> NDArray[np.float32]:
        """The sum of one layer at one site, read now.

        Raises:
            ResqError: The file has not so many layers.
        """
        with safe_open(self._path, framework="numpy") as file:
            stored = file.get_slice(f"{PREFIX}{site}")
            layers = stored.get_shape()[0]
            if layer >= layers:
                raise ResqError(
                    f"{self._path}: has second moments of {layers} layers: they belong to another "
                    "model; calibrate this one"
                )
            return unpack(stored[layer])


def write_tensors(
    path: Path,
    tensors: Mapping[str, NDArray[Any]],
    metadata: Mapping[str, str],
    layout: ModelLayout,
    moments: SecondMoments | None,
) -> None:
    """Write a safetensors file: some tensors, and the moments layer by layer.

    Args:
        path: The file.
        tensors: Held in memory.
        metadata: Texts for the header.
        layout: Of the model.
        moments: Those that are written too; None for none.

    Raises:
        ResqError: Moments are not finite.
        OSError: The file cannot be written.
    """
    described = {name: (kind_of(tensor), tensor.shape) for name, tensor in tensors.items()}
    if moments is not None:
        for site, (*rest, _, width) in moment_shapes(layout).items():
            described[f"{PREFIX}{site}"] = "F32", (*rest, triangle_size(width))
    with tensor_file(path, described, metadata) as file:
        for name, tensor in tensors.items():
            file.write(name, tensor)
        for layer in range(layout.num_layers if moments is not None else 0):
            assert moments is not None
            for site in SITES:
                packed = pack(checked_site(layout, moments, layer, site))
                file.write(f"{PREFIX}{site}", packed, layer * packed.nbytes)
