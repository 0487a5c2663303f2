"""One file for each runtime: how it opens a model, and how a prompt and new tokens are timed.

A runner's module has `load(model, threads, length)`. The module imports its runtime when it is
imported itself, so that `load` times the opening of a model alone. None knows another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

WARM_UP_TOKENS: Final = 512
"""A longer prompt is not run as a whole before it is timed."""


@dataclass(frozen=True)
class Timing:
    """Tokens per second of one run.

    Attributes:
        prefill: Prompt tokens, until the first new token is known.
        decode: New tokens after the first.
    """

    prefill: float
    decode: float


TimeRun = Callable[[list[int], int], Timing]
"""Runs a prompt, then generates so many tokens greedily, whatever they are."""


class Load(Protocol):
    """Opens a model.

    `model` is the file or folder, `threads` how many may compute, `length` how many tokens a
    text may have.
    """

    def __call__(self, model: Path, threads: int, length: int) -> TimeRun: ...


def time_steps(step: Callable[[NDArray[np.int64]], Any], prompt: list[int], new: int) -> Timing:
    """Time a decoder that is called once for the prompt, and then once for each token.

    Args:
        step: From token ids (1, tokens) to the logits after the last one, (vocabulary,).
        prompt: Token ids.
        new: Tokens to decode after the first.
    """
    started = time.perf_counter()
    token = int(step(np.array([prompt], np.int64)).argmax())
    first = time.perf_counter()
    for _ in range(new):
        token = int(step(np.array([[token]], np.int64)).argmax())
    return Timing(len(prompt) / (first - started), new / (time.perf_counter() - first))
