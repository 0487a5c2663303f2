"""A small exported model as it lies in its folder, and what other commands print about it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from rich.console import Console

from resq_onnx.cli.evaluation_tables import EvaluationRequest, print_evaluations
from resq_onnx.cli.printing import print_benchmark
from resq_onnx.evaluation import Distance, Evaluation, PerplexityResult, Windowing
from resq_onnx.evaluation.benchmark import ModelSpeed
from resq_onnx.evaluation.fresh_process import Footprint
from resq_onnx.evaluation.machine import Gpu, Machine
from resq_onnx.evaluation.side_by_side import FileEvaluation
from resq_onnx.evaluation.workload import Workload
from resq_onnx.graph.names import RECIPE_KEY
from resq_onnx.recipe import Recipe

LAYERS, ROWS, LOW, HIGH, KV_HEADS, RECORD, HEAD_DIM = 3, 40, 14, 2, 2, 11, 16

NAME: Final = "a-model & its <name>"
"""What a page must escape."""

SPECTRUM: Final[dict[str, Any]] = {
    "components": "directions",
    "curves": 6,
    "width": 16,
    "high": 2,
    "low_bits": 4,
    "high_bits": 8,
    "ranks": list(range(1, 17)),
    "median": [2.0 ** (3 - rank) for rank in range(16)],
    "minimum": [2.0 ** (2 - rank) for rank in range(16)],
    "maximum": [2.0 ** (4 - rank) for rank in range(16)],
    "high_share": {"minimum": 0.5, "median": 0.75, "maximum": 0.875},
}

ONE_CURVE: Final = {
    key: value for key, value in SPECTRUM.items() if key not in ("minimum", "maximum")
} | {"curves": 1, "high_share": {"minimum": 0.77, "median": 0.77, "maximum": 0.77}}

MEASURED: Final[dict[str, Any]] = {
    "quality": {
        "tokens": 512,
        "relative_error": 0.125,
        "kl_divergence": 0.2714,
        "top1_agreement": 0.8125,
        "perplexity_ratio": 1.2345,
        "standard_error": 0.01,
        "layer_sqnr_db": [38.5, 20.25, 15.5, 12.125],
    },
    "spectra": {"hidden": ONE_CURVE, "value": SPECTRUM, "key": SPECTRUM, "down": SPECTRUM},
}
"""What resq.json lacked before reports."""


def write_export(
    folder: Path, measured: dict[str, Any] = MEASURED, target_bits: float | None = None
) -> Path:
    """Write model.onnx, its data, config.json and resq.json; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    recipe = Recipe(calibration="<b>text</b>.txt", target_bits=target_bits).to_json()
    _save(path, recipe)
    config = {"hidden_size": 48, "num_attention_heads": 3, "head_dim": HEAD_DIM}
    (folder / "config.json").write_text(json.dumps(config))
    agreement = {"relative_error": 1.5e-6, "top1_agreement": 0.9875, "perplexity_ratio": 1.0025}
    sizes = {"graph": path.stat().st_size, "data": path.with_name("model.onnx.data").stat().st_size}
    said = {
        "format_version": 1,
        "model": NAME,
        "recipe": recipe,
        "versions": {"resq-onnx": "0.1.0", "torch": "1.2.3+cpu"},
        "parity": {"float": agreement, "decode": agreement},
        "bytes": {**sizes, "total": sum(sizes.values()), "source_float32": 4_000_000},
    }
    (folder / "resq.json").write_text(json.dumps(said | measured))
    return path


def _save(path: Path, recipe: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {"model.norm.weight": np.ones(16, np.float32)}
    for layer in range(LAYERS):
        module = f"model.layers.{layer}.mlp.down_proj"
        arrays[f"{module}.weight_low"] = np.ones((ROWS, LOW), ml_dtypes.int4)
        arrays[f"{module}.weight_high"] = np.ones((ROWS, HIGH), np.int8)
        arrays[f"{module}.scale_low"] = arrays[f"{module}.scale_high"] = np.ones(ROWS, np.float32)
    initializers = [
        ir.Value(name=name, const_value=ir.tensor(array, name=name))
        for name, array in arrays.items()
    ]
    caches = [
        ir.Value(
            name=f"past_key_values.{layer}.{part}",
            type=ir.TensorType(ir.DataType.UINT8),
            shape=ir.Shape(["batch", KV_HEADS, "past", RECORD]),
        )
        for layer in range(LAYERS)
        for part in ("key", "value")
    ]
    node = ir.node("Identity", [initializers[0]], version=23)
    graph = ir.Graph(caches, node.outputs, nodes=[node], initializers=initializers)
    graph.opset_imports[""] = 23
    model = ir.Model(graph, ir_version=10, metadata_props={RECIPE_KEY: json.dumps(recipe)})
    ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=0)
    onnx.load(path)  # complete


FLOAT = PerplexityResult(perplexity=20.125, nll=3.0, tokens=10220, windows=20)
QUANTISED = PerplexityResult(perplexity=25.5, nll=3.2, tokens=10220, windows=20)


def write_evaluation(path: Path, reference: bool = True) -> Path:
    """What `evaluate --json` prints of two models, with layers if there is a reference."""
    silent, noisy = (float("inf"),) * (LAYERS + 1), (40.0, 20.0, 15.0, 12.0)
    distances = [Distance(0.0, 0.0, 1.0, 1.0, 0.0), Distance(0.1, 0.2718, 0.775, 1.267, 0.01)]
    found = [
        FileEvaluation(Path(name), 1000, Evaluation(result, *(measured if reference else ())))
        for name, result, *measured in zip(
            ("float.onnx", "four <bits>.onnx"),
            (FLOAT, QUANTISED),
            distances,
            (silent, noisy),
            strict=True,
        )
    ]
    against = Path("float.onnx") if reference else None
    stream = io.StringIO()
    asked = EvaluationRequest(
        Path("texts/held-out.txt"), against, Windowing(512), token_by_token=False
    )
    print_evaluations(Console(file=stream), found, asked, as_json=True)
    path.write_text(stream.getvalue())
    return path


def write_benchmark(path: Path, threads: int | None = 2, gpu: Gpu | None = None) -> Path:
    """What `bench --json` prints of two models."""
    speeds = [
        ModelSpeed(Path("four.onnx"), (1234.0,), (150.5,), Footprint(0.08, 196_000_000)),
        ModelSpeed(Path("float.onnx"), (617.0,), (30.1,), Footprint(1.07, 813_000_000)),
    ]
    machine = Machine("A <fast> CPU", 2, ("AVX2",), "avx2", {"onnxruntime": "1.2.3"}, gpu)
    stream = io.StringIO()
    print_benchmark(Console(file=stream), speeds, Workload(512, 128, threads), machine, True)
    path.write_text(stream.getvalue())
    return path
