"""Tunes tiny models, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resq_onnx.calibration import trained
from resq_onnx.calibration.reference import load_tokenizer
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.tuned import tuned_model
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.progress import Progress
from resq_onnx.projections.bases import compute_projections
from resq_onnx.recipe import Recipe
from resq_onnx.resources import Resources
from tests.tiny_models import write_model

ASKED: dict[str, Any] = {
    "sequence_length": 24,
    "method": "quarot",
    "calibration": "python-docs",
    "weights": "rtn",
}
"""Bases and rounding that need no calibration."""

KINDS = {
    "llama": True,
    "qwen2": False,
    "phi3_partly_rotary": False,
    "gemma3": True,
    "gemma3_vl": True,
}
"""By kind, whether embedding and lm_head are tied: plain, with biases, with fused matrices, with
norms behind the halves of a layer, with a vision tower."""


class Run:
    """Tunes tiny models in a work folder.

    Attributes:
        titles: Of the steps that began.
        finished: The numbers of units that were finished, in the last step.
        warnings: All of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, WorkFolder(folder)
        self.titles, self.finished, self.warnings = list[str](), list[int](), list[str]()

    def _step(self, title: str) -> None:
        self.titles.append(title)
        self.finished.clear()

    def _advance(self, done: int, _of: int) -> None:
        self.finished.append(done)

    def source(self, kind: str = "llama") -> ModelSource:
        folder = self.folder / f"model-{kind}"
        if not folder.exists():
            write_model(folder, kind, tied=KINDS[kind])
        return ModelSource(folder, kind)

    def __call__(self, source: ModelSource, **recipe: Any) -> tuple[ModelSource, Recipe]:
        asked = Recipe(**(ASKED | recipe))
        bases = compute_projections(asked, source.layout, None)
        told = Progress(self._step, self._advance, self.warnings.append)
        given = (source, load_tokenizer(source), self.work, told, Resources())
        calibration = CalibrationRun(*given)
        text = trained.training_text(calibration, asked).token_ids
        return tuned_model(calibration, asked, bases, None, text)
