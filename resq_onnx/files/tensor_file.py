"""Write a safetensors file tensor by tensor, or in parts of tensors, in any order."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

ITEM_BYTES: Final = {"F64": 8, "I64": 8, "F32": 4, "BF16": 2, "F16": 2, "I8": 1}
"""Bytes of an element, by the name of its type in the file."""

KINDS: Final = {"f8": "F64", "i8": "I64", "f4": "F32", "f2": "F16", "i1": "I8"}
"""Names of NumPy's types; ml_dtypes' bfloat16 is not among them."""


@dataclass(frozen=True)
class TensorFile:
    """An open file.

    Attributes:
        stream: At any place.
        places: First byte of each tensor, by name.
    """

    stream: BinaryIO
    places: Mapping[str, int]

    def write(self, name: str, values: NDArray[Any], after: int = 0) -> None:
        """Write a tensor, or the part of it that begins after so many bytes."""
        self.stream.seek(self.places[name] + after)
        self.stream.write(np.ascontiguousarray(values).data.cast("B") if values.size else b"")


@contextmanager
def tensor_file(
    path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> Iterator[TensorFile]:
    """Create a file; what is not written has zeros.

    Args:
        path: The file.
        tensors: Type, a key of `ITEM_BYTES`, and shape of each tensor.
        metadata: Texts for the header.

    Raises:
        OSError: It cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    places, end = {}, 0
    # The format allows no gaps; larger elements first keep all of them aligned.
    for name in sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name][0]], name)):
        kind, shape = tensors[name]
        size = ITEM_BYTES[kind] * math.prod(shape)
        places[name] = end
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    begin = 8 + len(text)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(begin + end)
        yield TensorFile(stream, {name: begin + place for name, place in places.items()})


def kind_of(values: NDArray[Any]) -> str:
    """The name of an array's type in a file."""
    return KINDS[values.dtype.str[1:]]
