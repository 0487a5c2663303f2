"""Files in pieces that a channel with a size limit carries, and back, checked by their hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

MANIFEST: Final = "pieces.json"
PIECE_BYTES: Final = 60_000_000
BLOCK: Final = 1 << 20


class DamagedError(ValueError):
    """A piece is missing, or is not what the manifest says."""


def split(files: Iterable[Path], folder: Path, piece_bytes: int = PIECE_BYTES) -> None:
    """Write files as pieces `NAME.000`, `NAME.001`, ... and a manifest of them.

    Args:
        files: Files with different names.
        folder: Folder for the pieces; it is created.
        piece_bytes: Size of a piece; the last one of a file may be smaller.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for file in sorted(files):
        whole = hashlib.sha256()
        pieces: list[dict[str, str]] = []
        with file.open("rb") as source:
            while (content := source.read(piece_bytes)) or not pieces:
                name = f"{file.name}.{len(pieces):03}"
                (folder / name).write_bytes(content)
                whole.update(content)
                pieces.append({"name": name, "sha256": hashlib.sha256(content).hexdigest()})
        records.append({"name": file.name, "sha256": whole.hexdigest(), "pieces": pieces})
    (folder / MANIFEST).write_text(json.dumps(records, indent=1) + "\n")


def join(folder: Path, target: Path) -> list[Path]:
    """Put files together again; returns their paths.

    Args:
        folder: Written by `split`.
        target: Folder for the files; it is created.

    Raises:
        DamagedError: The manifest or a piece is missing, or something has another hash.
    """
    target.mkdir(parents=True, exist_ok=True)
    if not (folder / MANIFEST).is_file():
        raise DamagedError(f"{folder} has no {MANIFEST}")
    records = json.loads((folder / MANIFEST).read_text())
    return [_join_one(record, folder, target) for record in records]


def _join_one(record: dict[str, Any], folder: Path, target: Path) -> Path:
    out = target / Path(record["name"]).name  # a name, not a path that leads elsewhere
    with out.open("wb") as file:
        for piece in record["pieces"]:
            source = folder / Path(piece["name"]).name
            if not source.is_file():
                raise DamagedError(f"{source} is missing")
            content = source.read_bytes()
            if hashlib.sha256(content).hexdigest() != piece["sha256"]:
                raise DamagedError(f"{source} has another SHA-256 than {MANIFEST} says")
            file.write(content)
    if sha256_of(out) != record["sha256"]:
        raise DamagedError(f"{out} has another SHA-256 than {MANIFEST} says")
    return out


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    whole = hashlib.sha256()
    with file.open("rb") as source:
        while content := source.read(BLOCK):
            whole.update(content)
    return whole.hexdigest()
