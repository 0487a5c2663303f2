"""The data beside a graph: both say that they belong together.

The data file ends with a seal, a mark and the SHA-256 of all bytes before it; the graph's
metadata has the same number under `DATA_KEY`, and the file's name. Thus a graph is never run with
the weights of another export, and nothing but the last bytes of the data has to be read to know it.
What was overwritten in the middle of the file does not show.

A graph's metadata is found by stepping over its other fields: `import onnx` would take longer than
opening a whole session.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from resq_onnx.errors import ResqError
from resq_onnx.files import reading
from resq_onnx.files.checks import check_stays_inside
from resq_onnx.graph.names import DATA_KEY

MARK: Final = b"ai.resq.data"
SEAL_BYTES: Final = len(MARK) + hashlib.sha256().digest_size

METADATA: Final = 14
"""Number of the field `metadata_props` in a ModelProto. A property has a key, 1, and a value, 2."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""


def seal(data: Path) -> str:
    """Add the seal to a data file; returns what the graph is to have under `DATA_KEY`."""
    with data.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, 2)
        file.write(MARK + digest)
    return json.dumps({"file": data.name, "sha256": digest.hex()})


def check_data(path: Path) -> str | None:
    """Refuse a graph beside which another one's data lies.

    Args:
        path: The .onnx file, which exists.

    Returns:
        The SHA-256 of its data; None where the graph names none, as others than ours.

    Raises:
        ResqError: The data is not there, is cut off, or is another export's.
    """
    while True:
        named = _named(path)
        if named is None:
            return None
        name, digest = named
        data = path.with_name(name)
        found = _sealed(data)
        if found == digest:
            return digest
        if _named(path) != named:  # an export has replaced both meanwhile
            continue
        wrong = (
            f"is not the data of {path.name}, but of another export"
            if found
            else "is cut off, or not the data that an export wrote"
        )
        if not data.exists():
            wrong = "does not exist"
        raise ResqError(
            f"{data}: {wrong}; {path.name} and {name} belong together: copy both of them from "
            "where they were exported, or export them again"
        )


def data_file(path: Path) -> Path:
    """Where the data of a graph is: where it says, or under the graph's own name."""
    named = _named(path)
    return path.with_name(named[0] if named else f"{path.name}.data")


def folder_of_data(path: Path) -> Path:
    """The folder in which the data of a graph lies, behind a link if it is one.

    Raises:
        ResqError: The link leads out of the model's folder, and not into a Hugging Face cache.
    """
    data = data_file(path)
    check_stays_inside(data)
    return data.resolve().parent


def _sealed(data: Path) -> str | None:
    """The digest in a file's seal; None if it has none."""
    with reading(data):
        if not data.exists() or data.stat().st_size < SEAL_BYTES:
            return None
        with data.open("rb") as file:
            file.seek(-SEAL_BYTES, 2)
            end = file.read(SEAL_BYTES)
    return end[len(MARK) :].hex() if end.startswith(MARK) else None


def _named(path: Path) -> tuple[str, str] | None:
    """Name and digest of the data by what the graph says."""
    with reading(path), path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as model:
                said = next(
                    (value for key, value in _properties(model) if key == DATA_KEY.encode()), None
                )
        except (ValueError, IndexError):  # empty, or no protobuf message: it is refused elsewhere
            return None
    try:
        found = json.loads(said or b"null")
        return Path(found["file"]).name, str(found["sha256"])
    except (ValueError, KeyError, TypeError):
        return None


def _properties(model: mmap.mmap) -> Iterator[tuple[bytes, bytes]]:
    """The metadata of a serialised ModelProto."""
    for number, start, end in _fields(model, 0, len(model)):
        if number == METADATA:
            entry = {field: model[a:b] for field, a, b in _fields(model, start, end)}
            yield entry.get(1, b""), entry.get(2, b"")


def _fields(message: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field of a message that lies between two bytes.

    Raises:
        ValueError, IndexError: It is not a protobuf message.
    """
    while start < end:
        tag, start = _varint(message, start)
        wire, length = tag & 7, 0
        if wire == VARINT:
            _, stop = _varint(message, start)
        elif wire == BYTES:
            length, start = _varint(message, start)
            stop = start + length
        elif wire in (FIXED32, FIXED64):
            stop = start + (8 if wire == FIXED64 else 4)
        else:
            raise ValueError(f"wire type {wire}")
        if stop > end:
            raise ValueError("a field is cut off")
        yield tag >> 3, start, stop
        start = stop


def _varint(message: mmap.mmap, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first; and where what follows it begins."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
