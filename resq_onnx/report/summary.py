"""resq.json: recipe, versions, parity, sizes and quality of an export."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.evaluation.against_float import Quality
from resq_onnx.evaluation.distance import Distance
from resq_onnx.files import Staging
from resq_onnx.recipe import Recipe
from resq_onnx.resources import peak_bytes

FILE_NAME: Final = "resq.json"
FORMAT_VERSION: Final = 2
"""2: `standard_error` is that of the perplexity ratio; in 1 it was that of the ratio's log."""
PACKAGES: Final = ("resq-onnx", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "numpy")


@dataclass(frozen=True)
class Summary:
    """Result of an export.

    Attributes:
        path: The .onnx file.
        model_bytes: Size of the .onnx file and its data together.
        source_bytes: Size of the original weights, at four bytes each.
        parity: Distances of logits by comparison, `float` and `decode`.
        quality: Comparison of the quantised with the float model; None if nothing is quantised.
        dtype: Type of the activations.
        peak_bytes: The most memory that the process took, with Python and its libraries.
    """

    path: Path
    model_bytes: int
    source_bytes: int
    parity: dict[str, Distance]
    quality: Quality | None = None
    dtype: str = "float32"
    peak_bytes: int | None = None


def write_summary(
    staging: Staging,
    source: ModelSource,
    recipe: Recipe,
    target: str,
    parity: dict[str, Distance],
    quality: Quality | None = None,
    spectra: Mapping[str, Any] | None = None,
) -> Summary:
    """Write resq.json into the staging folder, and return a summary of it."""
    graph, data = staging.model, staging.folder / f"{staging.target.name}.data"
    sizes = {"graph": graph.stat().st_size, "data": data.stat().st_size if data.exists() else 0}
    source_bytes, peak = source.float32_bytes, peak_bytes()
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": source.config.get("_name_or_path") or Path(source.name).name,
        "model_sha256": source.digest,
        "licence": source.licence,
        "target": target,
        "recipe": recipe.to_json(),
        "positions": source.layout.max_positions,
        "versions": {name: _version(name) for name in PACKAGES},
        "parity": {name: dataclasses.asdict(distance) for name, distance in parity.items()},
        "bytes": {**sizes, "total": sum(sizes.values()), "source_float32": source_bytes},
        "peak_memory_bytes": peak,
    }
    if source.layout.longrope is not None:
        content["longrope_factors"] = source.layout.longrope
    if quality is not None:
        content["quality"] = quality.to_json()
    if spectra is not None:
        content["spectra"] = spectra
    (staging.folder / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n")
    size = sum(sizes.values())
    return Summary(staging.target, size, source_bytes, parity, quality, recipe.dtype, peak)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
