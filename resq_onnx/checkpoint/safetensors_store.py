"""Read the tensors of a folder of .safetensors files without loading them."""

from __future__ import annotations

import copy
import math
import operator
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.checkpoint.folder import WEIGHTS
from resq_onnx.errors import ResqError, blaming
from resq_onnx.files import reading
from resq_onnx.files.contents import parse_json, read_json
from resq_onnx.graph.tensors import Rows, row_blocks

DTYPES: Final = {
    "F64": ir.DataType.DOUBLE,
    "F32": ir.DataType.FLOAT,
    "F16": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
}
"""Element types a weight may have, by their name in a safetensors header."""

MAX_HEADER_BYTES: Final = 100_000_000
"""The limit the safetensors format itself sets on its header."""

BYTES_AT_A_TIME: Final = 1 << 24

AGAIN: Final = "download it again"
"""Remedy for a damaged file."""


@dataclass(frozen=True)
class StoredTensor:
    """Location, type and shape of one tensor in a file."""

    name: str
    file: Path
    offset: int
    length: int
    dtype: ir.DataType
    shape: tuple[int, ...]

    def external(self) -> ir.ExternalTensor:
        """The tensor as the ONNX graph points to it: a range of bytes of the file.

        It has an absolute path and no base folder, in which onnx_ir would require the file to be:
        the user has chosen the model, whose files may be links, as in a Hugging Face cache, or have
        several names.
        """
        return ir.ExternalTensor(
            self.file.resolve(),
            self.offset,
            self.length,
            self.dtype,
            shape=ir.Shape(self.shape),
            name=self.name,
        )

    def float32(self) -> NDArray[np.float32]:
        """Read the values now, as float32; nothing stays mapped afterwards."""
        return self._read(...)

    def rows(self, rows: Rows) -> NDArray[np.float32]:
        """Read some rows now, as float32."""
        return self._read(rows)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Read the values in ranges of rows, as float32: the tables of 70B models are large."""
        if not self.shape:
            yield self.float32()
            return
        for rows in row_blocks(self.shape):
            yield self.rows(rows)

    def bytes(self) -> Iterator[bytes]:
        """The tensor's bytes in the file, in parts."""
        with reading(self.file), self.file.open("rb") as file:
            file.seek(self.offset)
            left = self.length
            while left > 0 and (part := file.read(min(left, BYTES_AT_A_TIME))):
                left -= len(part)
                yield part

    def _read(self, place: Any) -> NDArray[np.float32]:
        tensor = self.external()
        with reading(self.file):
            values = np.array(tensor.numpy()[place], dtype=np.float32)
        tensor.release()
        return values


class SafetensorsStore:
    """The tensors of one model folder, by name; only headers are read up front."""

    def __init__(self, folder: Path, stored_prefixes: Mapping[str, str] | None = None) -> None:
        """Read the header of every file.

        Args:
            folder: Where the files are.
            stored_prefixes: Prefixes of names, and those that files may have instead.

        Raises:
            ResqError: There is no .safetensors file, one is damaged or truncated, or a
                tensor has a type that is not a float.
        """
        self.folder = folder
        self._stored_prefixes = stored_prefixes or {}
        self._tensors: dict[str, StoredTensor] = {}
        for file in _weight_files(folder):
            self._tensors.update({tensor.name: tensor for tensor in _read_header(file)})

    def with_file(self, file: Path) -> SafetensorsStore:
        """The same tensors, but for those that have the names of a file's: these are the file's."""
        changed = copy.copy(self)
        changed._tensors = self._tensors | {tensor.name: tensor for tensor in _read_header(file)}
        return changed

    def __getitem__(self, name: str) -> StoredTensor:
        if name not in self:
            raise ResqError(f"{self.folder}: the safetensors files have no tensor {name}")
        return self._tensors.get(name) or self._tensors[self._other_name(name)]

    def __contains__(self, name: str) -> bool:
        return name in self._tensors or self._other_name(name) in self._tensors

    def _other_name(self, name: str) -> str:
        for prefix, stored in self._stored_prefixes.items():
            if name.startswith(prefix):
                return stored + name.removeprefix(prefix)
        return name

    def __iter__(self) -> Iterator[StoredTensor]:
        return iter(self._tensors.values())

    def check_finite(self) -> None:
        """Reject weights with NaN or infinity, which would spread to every output.

        Raises:
            ResqError: Names the first such tensor and its file.
        """
        for tensor in self:
            if not all(np.isfinite(block).all() for block in tensor.blocks()):
                raise ResqError(
                    f"{tensor.file}: tensor {tensor.name} holds NaN or infinite values; "
                    "the checkpoint is damaged, download it again"
                )


def _weight_files(folder: Path) -> list[Path]:
    usual, index = (folder / name for name in WEIGHTS)
    if index.is_file():
        return _files_of_index(index)
    # Others beside the usual one may be anything, such as projections.
    files = [usual] if usual.exists() else sorted(folder.glob("*.safetensors"))
    for file in files:
        if not file.is_file():  # reading a pipe would block forever
            raise ResqError(
                f"{file}: not a complete .safetensors file: not a regular file; {AGAIN}"
            )
    if files:
        return files
    pickles = sorted(path.name for path in folder.glob("*.bin"))
    if pickles:
        raise ResqError(
            f"{folder}: only pickled weights ({', '.join(pickles)}), which can run code when "
            "loaded and are refused; convert them to .safetensors first"
        )
    raise ResqError(f"{folder}: no .safetensors file; a model directory must hold its weights")


def _files_of_index(index: Path) -> list[Path]:
    content = read_json(index, AGAIN)
    with blaming(index, "not a valid index of weights", AGAIN):
        names = {str(name) for name in content["weight_map"].values()}
    files = {index.parent / name for name in names}
    for name in sorted(names):
        if Path(name).name != name:
            raise ResqError(
                f"{index}: names {name}, and weights must lie beside it; download the model again"
            )
    if not isinstance(content.get("metadata"), dict):
        raise ResqError(
            f"{index}: not a valid index of weights: it has no metadata, without which "
            f'transformers does not read it; add "metadata": {{}} to its first braces, or {AGAIN}'
        )
    missing = sorted(file.name for file in files if not file.is_file())
    if missing:
        raise ResqError(f"{index.parent}: {', '.join(missing)} named by {index.name} is missing")
    return sorted(files)


def _read_header(file: Path) -> Iterator[StoredTensor]:
    """Parse a header: its length (uint64, little endian), JSON, then the tensors' bytes."""
    damaged = "not a complete .safetensors file"
    with blaming(file, damaged, AGAIN), reading(file), file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ResqError(f"{file}: {damaged}: its header is cut off; {AGAIN}")
        header = parse_json(stream.read(length), f"{file}: {damaged}: its header", AGAIN)
    header.pop("__metadata__", None)
    data, last = 8 + length, 0
    for name, said in header.items():
        with blaming(f"{file}: {damaged}: tensor {name}", "is not understood", AGAIN):
            kind, shape, begin, end = _entry(said)
        if data + end > size:
            raise ResqError(
                f"{file}: {damaged}: tensor {name} ends at byte {data + end} and the file has "
                f"{size}; {AGAIN}"
            )
        last = max(last, end)
        yield _stored_tensor(file, name, kind, shape, data + begin, end - begin)
    if data + last < size:
        raise ResqError(
            f"{file}: {size - data - last} bytes follow its last tensor, and PyTorch refuses such "
            f"a file; {AGAIN}"
        )


def _entry(entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape, begin and end of one tensor of a header; any exception means damage."""
    begin, end = (operator.index(place) for place in entry["data_offsets"])
    shape = tuple(operator.index(dim) for dim in entry["shape"])
    if min(begin, end - begin, *shape) < 0:
        raise ValueError("a negative offset or size")
    return str(entry["dtype"]), shape, begin, end


def _stored_tensor(
    file: Path, name: str, kind: str, shape: tuple[int, ...], offset: int, length: int
) -> StoredTensor:
    if kind not in DTYPES:
        raise ResqError(
            f"{file}: tensor {name} has type {kind}; supported: {', '.join(DTYPES)} "
            "(an already quantised checkpoint cannot be quantised again)"
        )
    dtype = DTYPES[kind]
    if math.prod(shape) * dtype.itemsize != length:
        raise ResqError(f"{file}: tensor {name} has {length} bytes, not those of {shape} {kind}")
    return StoredTensor(name, file, offset, length, dtype, shape)
