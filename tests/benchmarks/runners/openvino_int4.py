"""OpenVINO GenAI on the 4-bit weights of a .gguf file, timed by OpenVINO itself."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.runners import TimeRun, Timing

openvino: Any = importlib.import_module("openvino")
genai: Any = importlib.import_module("openvino_genai")


def load(model: Path, threads: int, length: int) -> TimeRun:
    """Open a folder with openvino_model.xml; its length is not limited."""
    del length
    pipeline = genai.LLMPipeline(str(model), "CPU", INFERENCE_NUM_THREADS=threads)

    def run(prompt: list[int], new: int) -> Timing:
        config = genai.GenerationConfig()
        config.max_new_tokens = new + 1
        config.ignore_eos = True
        config.do_sample = False
        ids = openvino.Tensor(np.array([prompt], np.int64))
        metrics = pipeline.generate(ids, config).perf_metrics
        if metrics.get_num_generated_tokens() != new + 1:
            raise RuntimeError("OpenVINO did not generate as many tokens as it was asked for")
        to_first, each_other = metrics.get_ttft().mean, metrics.get_tpot().mean  # milliseconds
        return Timing(len(prompt) * 1e3 / to_first, 1e3 / each_other)

    return run
