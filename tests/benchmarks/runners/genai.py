"""onnxruntime-genai: its own loop around ONNX Runtime, on a model of its own builder."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.runners import TimeRun, Timing

og: Any = importlib.import_module("onnxruntime_genai")


def load(model: Path, threads: int, length: int) -> TimeRun:
    """Open a folder with genai_config.json."""
    config = og.Config(str(model))
    session_options = {"intra_op_num_threads": threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session_options}}}))
    opened = og.Model(config)

    def run(prompt: list[int], new: int) -> Timing:
        parameters = og.GeneratorParams(opened)
        # The smallest length is also the largest: an end-of-text token ends nothing.
        total = len(prompt) + 1 + new
        parameters.set_search_options(max_length=total, min_length=total, do_sample=False)
        generator = og.Generator(opened, parameters)
        started = time.perf_counter()
        generator.append_tokens(np.array(prompt, np.int32))
        generator.generate_next_token()  # Only chooses: the prompt's logits are there.
        first = time.perf_counter()
        for _ in range(new):
            generator.generate_next_token()
        return Timing(len(prompt) / (first - started), new / (time.perf_counter() - first))

    del length  # The buffer is as long as a run's max_length.
    return run
