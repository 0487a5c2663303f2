"""The float weights with their errors are, when folded, what is rounded in the exported graph."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from resq_onnx.calibration.measured import ReferenceMeasurements, measure
from resq_onnx.calibration.rounding import rounding_errors
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.graph.modules import find_linear
from resq_onnx.passes import folding, lifting
from resq_onnx.passes.quantise_linears import sites_of
from resq_onnx.progress import Progress
from resq_onnx.recipe import Recipe
from resq_onnx.resources import Resources
from resq_onnx.tracing.trace import trace, with_weights
from tests.tiny_models import write_model

TEXT = Recipe(
    calibration="python-docs", samples=2, sequence_length=32, rotations="random", tuning_steps=0
)
KINDS = {"llama": True, "qwen2": False, "phi3_partly_rotary": False, "gemma3": True}
"""By kind, whether embedding and lm_head are tied: plain, with biases, with fused matrices, with
norms behind the halves of a layer."""

CASES = [
    *((kind, TEXT) for kind in KINDS),
    ("phi3_partly_rotary", dataclasses.replace(TEXT, method="quarot")),
    ("gemma3", dataclasses.replace(TEXT, weights="rtn")),
    ("llama", dataclasses.replace(TEXT, target_bits=5.0)),
    ("llama", dataclasses.replace(TEXT, method="outlier", down_high=0.25)),
]

OTHERS = 5e-3
"""Share of a matrix that may be rounded otherwise: its folded elements differ in the last bits, and
an integer that turns over changes those behind it in a row."""

CLOSE = 1e-5
"""Of a matrix's largest element: float32's rounding of the weights and their errors."""


@dataclasses.dataclass
class Model:
    """A tiny model, measured, and its traced graph."""

    source: ModelSource
    measured: ReferenceMeasurements
    traced: ir.Model

    def folded(self, source: ModelSource | None = None) -> ir.Model:
        """The folded graph with the weights of a source."""
        graph = with_weights(self.traced, source or self.source)
        recipe = self.measured.recipe
        for one in (
            *lifting(self.source.layout),
            *folding(self.source.layout, recipe, self.measured.projections),
        ):
            one(graph)
        return graph

    def errors(self) -> dict[str, NDArray[np.float32]]:
        """Those of all layers."""
        of = self.measured
        layers = range(self.source.layout.num_layers)
        found = [
            rounding_errors(self.source, of.projections, of.recipe, of.moments, layer)
            for layer in layers
        ]
        return {name: error for one in found for name, error in one.items()}


def _matrix(graph: ir.Model, module: str) -> NDArray[Any]:
    tensor = find_linear(graph, module).weight.const_value
    assert tensor is not None
    return tensor.numpy()


def _model(folder: Path, kind: str, recipe: Recipe) -> Model:
    write_model(folder / "model", kind, tied=KINDS[kind])
    source, work = ModelSource(folder / "model", kind), WorkFolder(folder / "work")
    work.folder.mkdir()
    measured = measure(source, recipe, None, work, Progress(), Resources())
    return Model(source, measured, trace(source))


@pytest.mark.parametrize(("kind", "recipe"), CASES)
def test_weights_with_errors_are_what_the_export_rounds(
    tmp_path: Path, kind: str, recipe: Recipe
) -> None:
    model = _model(tmp_path, kind, recipe)
    rounded = {
        name: model.source.weights[name].float32() + error for name, error in model.errors().items()
    }
    save_file(rounded, tmp_path / "rounded.safetensors")
    changed = dataclasses.replace(model.source, changed=tmp_path / "rounded.safetensors")
    before, behind, of = model.folded(), model.folded(changed), model.measured
    for layer in range(model.source.layout.num_layers):
        for site in sites_of(model.source.layout, of.projections, layer):
            weight, found = (_matrix(one, site.module) for one in (before, behind))
            matrix = site.quantise(weight, of.recipe, of.moments).dequantise()
            order = np.arange(weight.shape[1]) if site.order is None else site.order
            far = np.abs(found[:, order] - matrix) > CLOSE * np.abs(weight).max()
            assert far.mean() < OTHERS, site.module
            assert np.abs(matrix - weight[:, order]).max() > 100 * CLOSE * np.abs(weight).max()


def test_a_channel_that_a_norm_shuts_has_no_error(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=True)
    file = tmp_path / "model" / "model.safetensors"
    source = ModelSource(tmp_path / "model", "llama")
    gain = "model.layers.0.input_layernorm.weight"
    weights = {tensor.name: tensor.float32() for tensor in source.weights}
    weights[gain][5] = 0.0
    save_file(weights, file, metadata={"format": "pt"})
    work = WorkFolder(tmp_path / "work")
    work.folder.mkdir()
    source = ModelSource(tmp_path / "model", "llama")
    of = measure(source, TEXT, None, work, Progress(), Resources())
    errors = rounding_errors(source, of.projections, of.recipe, of.moments, 0)
    error = errors["model.layers.0.self_attn.q_proj.weight"]
    assert np.isfinite(error).all()
    assert (error[:, 5] == 0).all()
    assert (np.delete(error, 5, axis=1) != 0).any(axis=0).all()
