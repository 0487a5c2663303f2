"""Silence torch and transformers, which would write over our progress display."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

NOISY_LOGGERS: Final = ("torch.onnx", "torch.onnx._internal", "transformers", "torch.export")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence warnings, log lines and progress bars of torch and transformers.

    Their messages are either about their own internals or repeated by our own checks; errors still
    arrive as exceptions.
    """
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    levels = {name: logging.getLogger(name).level for name in NOISY_LOGGERS}
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _no_progress_bars():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Create every tqdm bar disabled: transformers' own switch does not reach all of them."""
    from tqdm import tqdm

    original = tqdm.__init__
    tqdm.__init__ = functools.partialmethod(original, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = original
