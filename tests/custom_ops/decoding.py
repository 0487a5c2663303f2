"""Decodes for a long time: `python -m tests.custom_ops.decoding MODEL STEPS`.

Prints the resident bytes of the process after a fifth of the steps and after all of them. The
context grows by concatenation to LONGEST tokens and begins anew, so that the first reading comes
after every size of the cache.
"""

from __future__ import annotations

import gc
import mmap
import sys
from pathlib import Path
from typing import Final

import numpy as np

from resq_onnx.runtime import Decoder, DecoderState
from tests.custom_ops.kernels import open_session

LONGEST: Final = 100


def resident() -> int:
    """Resident bytes of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def main(model: str, steps: int) -> None:
    """Decode token by token, and read the memory twice."""
    decoder = Decoder(open_session(Path(model)))
    state: DecoderState | None = None
    for step in range(steps):
        if step == steps // 5:
            print(resident())
        if step % LONGEST == 0:
            state = None
        _, state = decoder.run(np.array([[step % 50]]), state)
    print(resident())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
