"""Pictures of a page as Chromium draws it, and their pixels."""

from __future__ import annotations

import struct
import subprocess
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (height, width, 3)

SCHEMES: Final = {"dark": 0, "light": 1}
"""What Chromium calls the colour schemes that a system may prefer."""

SECONDS: Final = 60.0
"""A page takes one or two; a browser that starts on a busy machine, some more."""

PNG_START: Final = b"\x89PNG\r\n\x1a\n"


def screenshot(browser: str, page: Path, picture: Path, size: tuple[int, int], scheme: str) -> None:
    """Let a browser draw a page into a .png file.

    Args:
        browser: The program.
        page: The .html file.
        picture: The .png file.
        size: Width and height of the window.
        scheme: A key of `SCHEMES`.
    """
    picture.parent.mkdir(parents=True, exist_ok=True)
    command = [
        browser,
        "--headless=new",
        "--no-sandbox",  # which root may not use
        "--disable-gpu",
        "--disable-dev-shm-usage",  # containers have little of it
        "--hide-scrollbars",
        f"--user-data-dir={picture.with_suffix('.profile')}",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--window-size={size[0]},{size[1]}",
        f"--screenshot={picture}",
        page.absolute().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert picture.is_file(), done.stderr


def read_png(path: Path) -> Pixels:
    """Decode a .png file of 8 bits a channel, not interlaced: what Chromium writes."""
    content = path.read_bytes()
    assert content.startswith(PNG_START)
    place, data, header = len(PNG_START), b"", b""
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        kind, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        header = body if kind == b"IHDR" else header
        data += body if kind == b"IDAT" else b""
        place += 12 + length
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    assert (depth, interlaced) == (8, 0)
    channels = {2: 3, 6: 4}[colour]
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + width * channels)
    rows, above = [], bytes(width * channels)
    for line in lines:
        above = _unfiltered(int(line[0]), line[1:].tobytes(), above, channels)
        rows.append(above)
    pixels = np.frombuffer(b"".join(rows), np.uint8).reshape(height, width, channels)
    return pixels[..., :3]


def _unfiltered(kind: int, line: bytes, above: bytes, step: int) -> bytes:
    """One row from its differences to what PNG's filter of this kind predicts."""
    if kind == 0:
        return line
    row = bytearray(line)
    for i, value in enumerate(line):
        left = row[i - step] if i >= step else 0
        corner = above[i - step] if i >= step else 0
        up = above[i]
        if kind == 4:
            guess = left + up - corner
            distances = (abs(guess - left), abs(guess - up), abs(guess - corner))
            predicted = (left, up, corner)[distances.index(min(distances))]
        else:
            predicted = {1: left, 2: up, 3: (left + up) // 2}[kind]
        row[i] = (value + predicted) & 255
    return bytes(row)


def colours(pixels: Pixels) -> int:
    """How many different colours a picture has."""
    packed = pixels.astype(np.int64) @ [1 << 16, 1 << 8, 1]
    return len(np.unique(packed))
