"""Give freed memory back to the system."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Give freed memory back, which glibc would keep for later: its arrays come in other sizes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)
