"""llama.cpp through xllamacpp, timed by llama.cpp itself."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tests.benchmarks.runners import TimeRun, Timing

xllamacpp: Any = importlib.import_module("xllamacpp")


def load(model: Path, threads: int, length: int) -> TimeRun:
    """Open a .gguf file; weights are repacked for the CPU, as llama.cpp does by default."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.n_ctx = length
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.warmup = False  # The caller runs a prompt first.
    parameters.port = 0
    server = xllamacpp.Server(parameters)

    def run(prompt: list[int], new: int) -> Timing:
        request = {
            "prompt": prompt,
            "n_predict": new + 1,
            "ignore_eos": True,
            "cache_prompt": False,
            "temperature": 0.0,
        }
        timings = server.handle_completions(request)["timings"]
        if timings["prompt_n"] != len(prompt) or timings["predicted_n"] != new + 1:
            raise RuntimeError(f"llama.cpp did not run what it was asked for: {timings}")
        return Timing(timings["prompt_per_second"], timings["predicted_per_second"])

    return run
