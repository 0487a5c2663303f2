"""The page in a real browser: Debian's chromium."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from resq_onnx.report import write_report
from tests.report.cases import write_benchmark, write_evaluation, write_export
from tests.report.screenshots import PNG_START, Pixels, colours, read_png, screenshot

BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")

SIZES: Final = {"desk": (1000, 900), "phone": (400, 900)}

FEWEST_COLOURS: Final = 100
"""A blank page has one, and the text of an error a few shades of grey."""

EDGE: Final = 8
"""Pixels at the right side, in which a page that fits has nothing but its background."""


@pytest.fixture(scope="module")
def browser() -> str:
    """A browser; in CI it must be there."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        reason = "no chromium: install Debian's package of that name to look at the page"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def pictures(browser: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pixels]:
    """A full page on a desk and on a phone, light and dark."""
    folder = tmp_path_factory.mktemp("pictures")
    page = folder / "report.html"
    evaluation = write_evaluation(folder / "evaluation.json")
    benchmark = write_benchmark(folder / "benchmark.json")
    write_report(write_export(folder), page, [evaluation], [benchmark])
    found = {}
    for name, size in SIZES.items():
        for scheme in ("light", "dark"):
            picture = folder / f"{name} {scheme}.png"
            screenshot(browser, page, picture, size, scheme)
            found[f"{name} {scheme}"] = read_png(picture)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_drawn(pictures: dict[str, Pixels], size: str, scheme: str) -> None:
    pixels = pictures[f"{size} {scheme}"]
    width, height = SIZES[size]
    assert pixels.shape == (height, width, 3)
    assert colours(pixels) > FEWEST_COLOURS
    blank = (pixels == pixels[0, 0]).all(axis=(1, 2))
    assert not blank[: height // 2].all()
    assert not blank[height // 2 :].all()


@pytest.mark.parametrize("size", SIZES)
def test_a_light_page_is_light_and_a_dark_one_dark(pictures: dict[str, Pixels], size: str) -> None:
    light, dark = (pictures[f"{size} {scheme}"] for scheme in ("light", "dark"))
    assert light[0, 0].min() > 230
    assert dark[0, 0].max() < 40
    assert np.median(light) > 200
    assert np.median(dark) < 60


@pytest.mark.parametrize("size", SIZES)
def test_nothing_reaches_over_the_right_edge(pictures: dict[str, Pixels], size: str) -> None:
    pixels = pictures[f"{size} light"]
    assert (pixels[:, -EDGE:] == pixels[0, 0]).all()


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_png_is_undone(tmp_path: Path, kind: int) -> None:
    """Forwards here by the definition in the standard, backwards by the reader."""
    pixels = np.random.default_rng(kind).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    wide = np.zeros((5, 6, 3), np.int64)
    wide[1:, 1:] = pixels
    here, left, up, corner = wide[1:, 1:], wide[1:, :-1], wide[:-1, 1:], wide[:-1, :-1]
    guess = left + up - corner
    near = np.argmin([abs(guess - left), abs(guess - up), abs(guess - corner)], axis=0)
    paeth = np.choose(near, [left, up, corner])
    predicted = [np.zeros_like(here), left, up, (left + up) // 2, paeth][kind]
    rows = ((here - predicted) % 256).astype(np.uint8).reshape(4, -1)
    data = zlib.compress(b"".join(bytes([kind]) + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", 5, 4, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data[:9]), (b"IDAT", data[9:]), (b"IEND", b"")]
    path = tmp_path / "a.png"
    path.write_bytes(
        PNG_START
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    )
    np.testing.assert_array_equal(read_png(path), pixels)
