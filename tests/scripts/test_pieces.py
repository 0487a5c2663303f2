from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from scripts.pieces import MANIFEST, DamagedError, join, sha256_of, split


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """One that ends within a piece, one that ends with it, and an empty one."""
    made = []
    for name, size in (("large.whl", 2500), ("exact.whl", 2000), ("empty.whl", 0)):
        file = tmp_path / name
        file.write_bytes(np.random.default_rng(size).bytes(size))
        made.append(file)
    return made


def test_pieces_reassemble_to_the_same_hash(files: list[Path], tmp_path: Path) -> None:
    split(files, tmp_path / "kit", piece_bytes=1000)
    joined = join(tmp_path / "kit", tmp_path / "joined")
    assert {file.name: sha256_of(file) for file in joined} == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


def test_no_piece_is_larger_than_allowed(files: list[Path], tmp_path: Path) -> None:
    split(files, tmp_path / "kit", piece_bytes=1000)
    sizes = {
        piece.name: piece.stat().st_size
        for piece in (tmp_path / "kit").iterdir()
        if piece.name != MANIFEST
    }
    assert sizes == {
        "large.whl.000": 1000,
        "large.whl.001": 1000,
        "large.whl.002": 500,
        "exact.whl.000": 1000,
        "exact.whl.001": 1000,
        "empty.whl.000": 0,
    }


def test_a_piece_that_was_changed_is_named(files: list[Path], tmp_path: Path) -> None:
    split(files, tmp_path / "kit", piece_bytes=1000)
    piece = tmp_path / "kit" / "large.whl.001"
    piece.write_bytes(b"x" + piece.read_bytes()[1:])
    with pytest.raises(DamagedError, match=r"large\.whl\.001 has another SHA-256"):
        join(tmp_path / "kit", tmp_path / "joined")


def test_a_piece_that_is_missing_is_named(files: list[Path], tmp_path: Path) -> None:
    split(files, tmp_path / "kit", piece_bytes=1000)
    (tmp_path / "kit" / "exact.whl.000").unlink()
    with pytest.raises(DamagedError, match=r"exact\.whl\.000 is missing"):
        join(tmp_path / "kit", tmp_path / "joined")


def test_pieces_in_another_order_are_noticed(files: list[Path], tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    split(files, kit, piece_bytes=1000)
    records = json.loads((kit / MANIFEST).read_text())
    records[-1]["pieces"].reverse()
    (kit / MANIFEST).write_text(json.dumps(records))
    with pytest.raises(DamagedError, match=r"large\.whl has another SHA-256"):
        join(kit, tmp_path / "joined")


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=f"has no {MANIFEST}"):
        join(tmp_path, tmp_path / "joined")


def test_a_file_is_written_into_the_folder_whatever_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    split([tmp_path / "a"], tmp_path / "kit")
    records = json.loads((tmp_path / "kit" / MANIFEST).read_text())
    records[0]["name"] = "../../a"
    (tmp_path / "kit" / MANIFEST).write_text(json.dumps(records))
    assert join(tmp_path / "kit", tmp_path / "joined") == [tmp_path / "joined" / "a"]
