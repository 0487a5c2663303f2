"""What the page needs from npm: by an npm of the test's own, which has no network."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.web import packages
from resq_onnx.web.packages import PACKAGES, Package, fetch_packages

CONTENT: Final = {"package/dist/a.js": b"export const a = 1;", "package/other.js": b"not wanted"}


def write_archive(folder: Path, package: Package, content: dict[str, bytes]) -> Package:
    """Write an archive; returns the package with its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package.archive
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    digest = hashlib.sha512(path.read_bytes()).digest()
    return replace(package, sha512=base64.b64encode(digest).decode())


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    return tmp_path / "archives"


@pytest.fixture
def package(archives: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """One that replaces those of the page."""
    made = Package("@scope/name", "1.2.3", "", {"a.mjs": "dist/a.js"})
    made = write_archive(archives, made, CONTENT)
    monkeypatch.setattr(packages, "PACKAGES", (made,))
    return made


def put_npm_first(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An `npm` that is this shell script, and no other."""
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_npm_is_asked_once_and_its_files_are_kept(
    tmp_path: Path, archives: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    script = f'echo "$@" >> {log}; cp {archives}/{package.archive} "$5"'
    put_npm_first(tmp_path / "bin", monkeypatch, script)
    for _ in range(2):
        found = fetch_packages(cache=tmp_path / "cache")
        assert found["a.mjs"].read_bytes() == CONTENT["package/dist/a.js"]
        assert list(found) == ["a.mjs"]
    (line,) = log.read_text().splitlines()
    assert line.startswith("pack @scope/name@1.2.3 --silent --pack-destination ")
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*")) == [
        "a.mjs",
        "scope-name-1.2.3",
    ]


def test_an_archive_of_other_bytes_is_refused_and_nothing_is_kept(
    tmp_path: Path, archives: Path, package: Package
) -> None:
    write_archive(archives, package, CONTENT | {"package/dist/a.js": b"export const a = 2;"})
    with pytest.raises(ResqError, match=r"scope-name-1\.2\.3\.tgz: its SHA-512 is not that of"):
        fetch_packages(archives, tmp_path / "cache")
    assert not any((tmp_path / "cache").iterdir())


def test_archives_that_are_at_hand_need_no_npm(
    tmp_path: Path, archives: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fetch_packages(archives, tmp_path / "cache")["a.mjs"].is_file()
    (archives / package.archive).unlink()
    with pytest.raises(ResqError, match=r"`npm pack @scope/name@1\.2\.3` writes it"):
        fetch_packages(archives, tmp_path / "another cache")


def test_without_npm_it_is_said_what_to_do(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResqError) as error:
        fetch_packages(cache=tmp_path / "cache")
    for words in ("install Node.js", f"npm pack {package.specifier}", "--packages FOLDER"):
        assert words in str(error.value)


def test_what_npm_says_of_a_failure_is_passed_on(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_npm_first(tmp_path / "bin", monkeypatch, "echo no such host >&2; exit 1")
    with pytest.raises(ResqError, match=f"npm pack {package.specifier} failed: no such host"):
        fetch_packages(cache=tmp_path / "cache")


def test_the_cache_is_where_the_user_has_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert packages.cache_folder() == Path("/somewhere/resq-onnx/web")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert packages.cache_folder() == Path("/home/somebody/.cache/resq-onnx/web")


def test_every_package_is_one_version_with_a_hash() -> None:
    for package in PACKAGES:
        assert package.version.count(".") == 2
        assert len(base64.b64decode(package.sha512)) == hashlib.sha512().digest_size
        assert package.archive.endswith(f"-{package.version}.tgz")
