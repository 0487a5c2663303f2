"""Give freed memory back to the system."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager


def give_back() -> None:
    """Give freed memory back, which glibc would keep for later: its arrays come in other sizes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)


@contextmanager
def often_given_back() -> Iterator[None]:
    """Give freed memory back, and make doing so again cheap within the block.

    PyTorch and transformers alone are a million objects, which take a quarter of a second to look
    through. Within the block only newer objects are looked through: of older ones, those that refer
    to each other in a circle stay until its end.
    """
    give_back()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
