"""PyTorch's dynamic quantisation: int8 weights, activations quantised in each call."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from tests.benchmarks.runners import TimeRun, Timing, time_steps


def load(model: Path, threads: int, length: int) -> TimeRun:
    """Open a Hugging Face folder and quantise its linear layers; the length is not limited."""
    del length
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # Deprecated, and still the quickest way of PyTorch alone.
    transformers.utils.logging.disable_progress_bar()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    quantised: Any = torch.ao.quantization.quantize_dynamic(
        loaded.eval(), {torch.nn.Linear}, dtype=torch.qint8
    )

    def run(prompt: list[int], new: int) -> Timing:
        cache = transformers.DynamicCache()

        def step(ids: NDArray[np.int64]) -> NDArray[Any]:
            output = quantised(torch.from_numpy(ids), past_key_values=cache, logits_to_keep=1)
            last: NDArray[Any] = output.logits[0, -1].numpy()
            return last

        with torch.inference_mode():
            return time_steps(step, prompt, new)

    return run
