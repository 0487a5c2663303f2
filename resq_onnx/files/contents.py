"""Read small files that others wrote: whole, checked, and named where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, cast

from resq_onnx.errors import ResqError, blaming

MOST_BYTES: Final = 256_000_000
"""Of a file that is read at once: several times the largest tokenizer.json there is."""


def read_text(
    path: Path, remedy: str, *, shown: str | Path | None = None, most: int = MOST_BYTES
) -> str:
    """The text of a file, without the mark that some editors put at its beginning.

    Args:
        path: The file.
        remedy: What to do where it cannot be read.
        shown: What to call it in messages, if not by its path.
        most: Bytes that it may have.

    Raises:
        ResqError: It is no file, too large, or not UTF-8.
    """
    name = shown or path
    with blaming(name, "cannot be read", remedy):
        size = path.stat().st_size
        if not path.is_file():  # a pipe would be waited for without end
            raise ResqError(f"{name}: cannot be read: it is no regular file; {remedy}")
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
    """The object in a JSON file.

    Args:
        path: The file.
        remedy: What to do where it cannot be read.
        optional: Whether a file that is not there is an empty object.
        shown: What to call it in messages, if not by its path.

    Raises:
        ResqError: It cannot be read, or holds no JSON object.
    """
    if optional and not path.exists():
        return {}
    return parse_json(read_text(path, remedy, shown=shown), shown or path, remedy)


def parse_json(text: str | bytes, shown: str | Path, remedy: str) -> dict[str, Any]:
    """The object that a text in JSON holds.

    Args:
        text: The text, or its UTF-8.
        shown: What to call it in messages.
        remedy: What to do where it is none.

    Raises:
        ResqError: It is no JSON, nothing but an object, or holds what no text can.
    """
    with blaming(shown, "cannot be read", remedy):
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ResqError(f"{shown}: must hold a JSON object; {remedy}")
        # Half of a character passes as an escape, and fails wherever it is printed or written.
        json.dumps(content, ensure_ascii=False).encode()
        return cast("dict[str, Any]", content)
