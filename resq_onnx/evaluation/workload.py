"""Workload of a benchmark: one prompt and its greedy continuation, timed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.buffered import BufferedDecoder
from resq_onnx.runtime.providers import CPU
from resq_onnx.runtime.session import create_session

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Workload:
    """A prompt and its continuation.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens generated after it.
        threads: Threads of a session; None for ONNX Runtime's default.
        kernels: Whether the compiled operators run, instead of the functions in the file.
        spinning: Whether waiting threads spin.
        provider: As for `create_session`.
    """

    prompt_tokens: int = 512
    new_tokens: int = 128
    threads: int | None = None
    kernels: bool = True
    spinning: bool = True
    provider: str = CPU

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "new_tokens"):
            if getattr(self, name) < 1:
                raise ResqError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def total_tokens(self) -> int:
        """Tokens in the cache at the end."""
        return self.prompt_tokens + self.new_tokens

    def prompt(self, vocabulary: int) -> NDArray[np.int64]:
        """The prompt, (1, prompt_tokens): random ids below `vocabulary`, always the same."""
        return np.random.default_rng(0).integers(0, vocabulary, (1, self.prompt_tokens))


@dataclass(frozen=True)
class Timing:
    """Seconds of one run.

    Attributes:
        prefill: From the prompt to the logits after it.
        decode: All steps; a step runs one token through the model and selects the next one.
    """

    prefill: float
    decode: float


def open_decoder(path: Path, workload: Workload) -> BufferedDecoder:
    """Open a model with a cache large enough for a workload.

    Raises:
        ResqError: It cannot be opened, or is not a decoder.
    """
    return decoder_on(open_session(path, workload), path, workload)


def open_session(
    path: Path, workload: Workload, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """Open a session with the workload's settings, without a decoder.

    Args:
        path: The .onnx file.
        workload: The settings.
        profile: As for `create_session`.

    Raises:
        ResqError: It cannot be opened.
    """
    return create_session(
        path,
        workload.threads,
        provider=workload.provider,
        kernels=workload.kernels,
        spinning=workload.spinning,
        profile=profile,
    )


def decoder_on(session: Any, path: Path, workload: Workload) -> BufferedDecoder:
    """A decoder on an open session, with a cache large enough for the workload."""
    width = _head_size(path.with_name("genai_config.json"))
    return BufferedDecoder(session, workload.total_tokens, cache_width=width)


def _head_size(config: Path) -> int | None:
    """Head size that onnxruntime-genai's model builder writes here but not into the graph."""
    try:
        size = json.loads(config.read_text())["model"]["decoder"]["head_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) else None


def run_once(decoder: BufferedDecoder, prompt: NDArray[np.int64], new_tokens: int) -> Timing:
    """Read a prompt, (1, tokens), and continue it greedily, from an empty cache."""
    decoder.reset()
    token = np.zeros((1, 1), np.int64)
    start = time.perf_counter()
    logits = decoder.run(prompt)
    middle = time.perf_counter()
    token[0, 0] = logits[0].argmax()
    for _ in range(new_tokens):
        token[0, 0] = decoder.run(token)[0].argmax()
    return Timing(middle - start, time.perf_counter() - middle)
