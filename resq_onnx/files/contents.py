"""Read and check small text and JSON files; errors name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

from resq_onnx.errors import ResqError, blaming

MOST_BYTES: Final = 256_000_000
"""Largest file to read at once: several times the largest known tokenizer.json."""


def read_text(
    path: Path, remedy: str, *, shown: str | Path | None = None, most: int = MOST_BYTES
) -> str:
    """Read a text file, without the byte order mark that some editors put at its beginning.

    Args:
        path: The file.
        remedy: What to do if it cannot be read.
        shown: Its name in messages; None for its path.
        most: Largest size in bytes.

    Raises:
        ResqError: It is not a regular file, too large, or not UTF-8.
    """
    name = shown or path
    with blaming(name, "cannot be read", remedy):
        size = path.stat().st_size
        if not path.is_file():  # reading a pipe would block forever
            raise ResqError(f"{name}: cannot be read: it is not a regular file; {remedy}")
        if size > most:
            raise ResqError(
                f"{name}: cannot be read: it has {size} bytes, and the most that make sense are "
                f"{most}; {remedy}"
            )
        # Not "utf-8-sig": Python reads that codec from its own folder, perhaps as another user.
        return path.read_text(encoding="utf-8").removeprefix("\ufeff")


def read_json(
    path: Path, remedy: str, *, optional: bool = False, shown: str | Path | None = None
) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Args:
        path: The file.
        remedy: What to do if it cannot be read.
        optional: Whether a missing file counts as an empty object.
        shown: Its name in messages; None for its path.

    Raises:
        ResqError: It cannot be read, or is not a JSON object.
    """
    if optional and not path.exists():
        return {}
    return parse_json(read_text(path, remedy, shown=shown), shown or path, remedy)


def parse_json(text: str | bytes, shown: str | Path, remedy: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: The text, or its UTF-8.
        shown: Its name in messages.
        remedy: What to do if it is not a JSON object.

    Raises:
        ResqError: It is not valid JSON, not an object, or contains a lone surrogate.
    """
    with blaming(shown, "cannot be read", remedy):
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ResqError(f"{shown}: must hold a JSON object; {remedy}")
        # A lone surrogate passes as an escape, and fails when it is printed or written.
        json.dumps(content, ensure_ascii=False).encode()
        return cast("dict[str, Any]", content)
