"""Gemma 3 with images: of its files, by their old and new names, the language model is exported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
import pytest
from safetensors.torch import load_file, save_file

from resq_onnx.evaluation.distance import compare
from resq_onnx.evaluation.parity import FLOAT_TOLERANCE
from tests.command_line import QUICK, run_successfully
from tests.end_to_end.tiny_text import prefill, token_ids, torch_logits
from tests.tiny_models import write_model

NAMES: Final = {
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
    "vision_tower.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
}
"""Beginnings of tensors' names in files of transformers 4, and of its models in memory since."""


@dataclass(frozen=True)
class Exported:
    """Two exports of one model, whose files have old and new names."""

    model: Path
    old: Path
    new: Path
    stderr: str


def rename(folder: Path, names: dict[str, str]) -> None:
    """Rename the tensors whose names begin so; the others must have new names already."""
    tensors = load_file(folder / "model.safetensors")
    for name in list(tensors):
        for beginning, other in names.items():
            if name.startswith(beginning):
                tensors[other + name.removeprefix(beginning)] = tensors.pop(name)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    top = tmp_path_factory.mktemp("gemma3")
    stderr = ""
    for age in ("old", "new"):
        original = write_model(top / age, "gemma3_vl", tied=request.param)
        rename(top / age, NAMES)
        if age == "old":
            rename(top / age, {new: old for old, new in NAMES.items()})
        out = top / f"{age}-out" / "model.onnx"
        rotated = ("--save-rotated", out.with_name("float.onnx"))
        stderr += run_successfully("export", top / age, out, *QUICK, *rotated).stderr
        ids = token_ids(out.parent)
        found = compare(torch_logits(original, ids), prefill(out.with_name("float.onnx"), ids), ids)
        assert found.relative_error < FLOAT_TOLERANCE
    old, new = (top / f"{age}-out" / "model.onnx" for age in ("old", "new"))
    return Exported(top / "old", old, new, stderr)


def test_old_and_new_names_are_of_the_same_weights(exported: Exported) -> None:
    old, new = (
        load_file(folder / "model.safetensors")
        for folder in (exported.model, exported.model.with_name("new"))
    )
    assert old.keys().isdisjoint(new.keys())
    data = [path.with_name("model.onnx.data").read_bytes() for path in (exported.old, exported.new)]
    assert data[0] == data[1]


def test_one_line_says_that_the_vision_tower_is_left_out(exported: Exported) -> None:
    tensors = load_file(exported.model / "model.safetensors")
    count = sum(name.startswith(("vision_tower.", "multi_modal_")) for name in tensors)
    lines = [line for line in exported.stderr.splitlines() if "for images" in line]
    assert len(lines) == 2  # two exports
    assert f"{count} tensors for images are left out" in lines[0]


def test_the_file_and_its_figures_are_of_the_language_model_alone(exported: Exported) -> None:
    graph = onnx.load(exported.old, load_external_data=False).graph
    assert not [value.name for value in graph.initializer if "vision" in value.name]
    tensors = load_file(exported.model / "model.safetensors")
    size = sum(4 * tensor.numel() for name, tensor in tensors.items() if "language" in name)
    said = json.loads((exported.old.parent / "resq.json").read_text())
    assert said["bytes"]["source_float32"] == size
