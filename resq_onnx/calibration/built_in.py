"""Calibration texts that need neither a file nor a network, and mixes of them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics
from typing import Final

import numpy as np

from resq_onnx.errors import ResqError
from resq_onnx.files.contents import read_text

PROSE: Final = "prose"
"""Public-domain English prose in this package (`scripts/make_prose.py`)."""

PROSE_FILE: Final = Path(__file__).with_name("prose.txt")

PYTHON_DOCS: Final = "python-docs"
"""Python's language reference: explanations, lists, and some program text."""

PYTHON_CODE: Final = "python-code"
"""Program text: modules of Python's standard library."""

MODULES: Final = (
    "calendar", "csv", "ftplib", "heapq", "http.client", "json.decoder", "pprint", "random",
    "shutil", "socketserver", "textwrap", "traceback", "urllib.parse", "weakref",
)  # fmt: skip
"""Of which every supported version of Python has the source."""

SELF: Final = "self"
"""Text that the float model writes (`calibration.own_text`)."""

BUNDLED: Final = "bundled"
"""What is there, mixed: a text of one kind costs much on the others (docs/quality.md)."""

AUTO: Final = "auto"
"""These, and text of the model's own."""

MIXES: Final[dict[str, dict[str, float]]] = {
    BUNDLED: {PROSE: 0.5, PYTHON_CODE: 0.25, PYTHON_DOCS: 0.25},
    AUTO: {PROSE: 0.375, PYTHON_CODE: 0.1875, PYTHON_DOCS: 0.1875, SELF: 0.25},
}
"""Shares of the texts of a mix, in the order of their sequences."""


def shares_of(spec: str, samples: int) -> dict[str, int]:
    """How many of so many calibration sequences each text of a mix has; without 0."""
    mix = MIXES.get(spec, {spec: 1.0})
    ends = np.ceil(np.cumsum(list(mix.values())) * samples).astype(int)
    counts = np.diff(ends, prepend=0)
    return {text: int(count) for text, count in zip(mix, counts, strict=True) if count}


def _documentation() -> list[str]:
    return [topics[name] for name in sorted(topics)]


def _prose() -> list[str]:
    return [read_text(PROSE_FILE, "install this package again", most=1 << 24)]


def _code() -> list[str]:
    return [_source(name) for name in MODULES]


def _source(module: str) -> str:
    """The source of a module of the standard library, which is not imported."""
    found = find_spec(module)
    if found is None or found.origin is None or not found.has_location:
        raise ResqError(
            f"calibration text {PYTHON_CODE}: this Python has no source of its module {module}; "
            f"use --calibration {PYTHON_DOCS}, or FILE"
        )
    return read_text(Path(found.origin), f"use --calibration {PYTHON_DOCS}", most=1 << 24)


BUILT_IN: Final[dict[str, Callable[[], list[str]]]] = {
    PROSE: _prose,
    PYTHON_DOCS: _documentation,
    PYTHON_CODE: _code,
}
"""Documents of the texts that are not mixes."""
