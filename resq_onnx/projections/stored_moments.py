"""Second moments in a projections file: written and read one layer at a time."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.projections.moments import (
    SITES,
    SecondMoments,
    checked_site,
    moment_shapes,
)
from resq_onnx.projections.triangles import pack, unpack

PREFIX: Final = "moments."
"""Names of the tensors: this and a site, (layers, ..., n (n + 1) / 2), float32."""

ITEM: Final = 4


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
    sizes = {name: (_kind(tensor), tensor.shape, tensor.nbytes) for name, tensor in tensors.items()}
    if moments is not None:
        for site, (*rest, _, width) in moment_shapes(layout).items():
            shape = (*rest, width * (width + 1) // 2)
            sizes[f"{PREFIX}{site}"] = "F32", shape, ITEM * math.prod(shape)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    places, end = {}, 0
    # The format wants no gaps; larger elements first keep all of them aligned.
    for name in sorted(sizes, key=lambda name: (-int(sizes[name][0][1:]), name)):
        kind, shape, size = sizes[name]
        places[name] = end
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            _write(file, begin + places[name], tensor)
        if moments is not None:
            for layer in range(layout.num_layers):
                _write_layer(file, layer, moments, {
                    site: (begin + places[f"{PREFIX}{site}"], sizes[f"{PREFIX}{site}"][2])
                    for site in SITES
                }, layout)  # fmt: skip


def _write_layer(
    file: BinaryIO,
    layer: int,
    moments: SecondMoments,
    places: Mapping[str, tuple[int, int]],
    layout: ModelLayout,
) -> None:
    for site, (begin, size) in places.items():
        moment = checked_site(layout, moments, layer, site)
        _write(file, begin + layer * (size // layout.num_layers), pack(moment))


def _write(file: BinaryIO, place: int, tensor: NDArray[Any]) -> None:
    file.seek(place)
    file.write(np.ascontiguousarray(tensor).data)


def _kind(tensor: NDArray[Any]) -> str:
    return {"f": "F", "i": "I"}[tensor.dtype.kind] + str(8 * tensor.dtype.itemsize)
