"""Every layer of the folded graph is compared with PyTorch's, and a fault is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from resq_onnx.calibration.measured import ReferenceMeasurements, measure
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.evaluation import layer_by_layer
from resq_onnx.evaluation.layer_by_layer import LayerByLayer
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.graph.tensors import fold
from resq_onnx.passes import folding, lifting
from resq_onnx.passes.quantise_linears import sites_of
from resq_onnx.progress import Progress
from resq_onnx.recipe import Recipe
from resq_onnx.resources import Resources
from resq_onnx.tracing.trace import trace
from tests.tiny_models import KINDS, write_model

RECIPE = Recipe(calibration="python-docs", samples=2, sequence_length=32)

SMALL = 1e-4
"""Error of float32 in one layer of a tiny model: a wrong fold gives more than 1e-2."""


@dataclass
class Made:
    graph: ir.Model
    source: ModelSource
    measured: ReferenceMeasurements
    work: WorkFolder

    def run(self, progress: Callable[[int, int], None] = lambda done, total: None) -> Any:
        return LayerByLayer(self.graph, self.source, self.measured, self.work, 1).run(progress)


def make(folder: Path, kind: str, *, tied: bool, recipe: Recipe = RECIPE) -> Made:
    write_model(folder / "model", kind, tied=tied)
    source, work = ModelSource(folder / "model", kind), WorkFolder(folder / "work")
    work.folder.mkdir()
    measured = measure(source, recipe, None, work, Progress(), Resources())
    graph = trace(source)
    for one in [*lifting(source.layout), *folding(source.layout, recipe, measured.projections)]:
        one(graph)
    return Made(graph, source, measured, work)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_all_pieces_agree_with_pytorch(tmp_path: Path, kind: str, tied: bool) -> None:
    made = make(tmp_path, kind, tied=tied)
    distance = made.run()
    assert distance.relative_error < SMALL
    assert distance.kl_divergence < SMALL
    for layer in range(made.measured.layout.num_layers):
        for site in sites_of(made.measured.layout, made.measured.projections, layer):
            assert made.work.has(site.module)


def test_a_float_model_is_checked_too(tmp_path: Path) -> None:
    made = make(tmp_path, "llama", tied=True, recipe=Recipe(method="none"))
    assert made.run().relative_error < SMALL


def test_lm_head_is_checked_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, "llama", tied=False)
    blocks = lambda shape: [slice(0, 100), slice(100, shape[0])]  # noqa: E731
    monkeypatch.setattr(layer_by_layer, "row_blocks", blocks)
    assert made.run().relative_error < SMALL


@pytest.mark.parametrize(
    ("weight", "named"),
    [
        ("model.layers.1.self_attn.qkv_proj.weight", r"layer 1: .*self_attn"),
        ("model.layers.1.self_attn.o_proj.weight", r"layer 1: .*self_attn"),
        ("model.layers.0.mlp.gate_up_proj.weight", r"layer 0: .*mlp"),
        ("model.layers.1.mlp.down_proj.weight", r"layer 1: .*mlp"),
        ("model.embed_tokens.weight", "the embedding"),
        ("lm_head.weight", "the logits of the rotated float graph"),
    ],
)
def test_a_planted_fault_is_named(tmp_path: Path, weight: str, named: str) -> None:
    made = make(tmp_path, "llama", tied=False)
    # 1 % of one weight: far more than float32's rounding, and nothing that a text would show.
    fold(made.graph.graph.initializers[weight], lambda w: w * 1.01)
    with pytest.raises(ResqError, match=f"parity: {named}"):
        made.run()


def test_finished_layers_are_not_quantised_again(tmp_path: Path) -> None:
    made = make(tmp_path, "llama", tied=True)

    def interrupt(done: int, _total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.run(interrupt)
    first = made.work.folder / "model.layers.0.mlp.down_proj.safetensors"
    time, content = first.stat().st_mtime_ns, first.read_bytes()
    made.run()
    assert (first.stat().st_mtime_ns, first.read_bytes()) == (time, content)


def test_the_error_is_the_same_after_a_stop(tmp_path: Path) -> None:
    made = make(tmp_path, "llama", tied=True)
    assert made.run() == made.run()
    assert np.isfinite(made.run().relative_error)
