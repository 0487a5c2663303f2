"""What the steps of one calibration share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resq_onnx.calibration.working import torch_device
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.progress import Progress
from resq_onnx.resources import Resources


@dataclass(frozen=True)
class CalibrationRun:
    """A model that is calibrated, and what that may use; the recipe changes on the way.

    Attributes:
        source: The model.
        tokenizer: Its Hugging Face tokenizer.
        work: Where finished parts are kept.
        progress: Receives progress updates.
        resources: Device and memory.
    """

    source: ModelSource
    tokenizer: Any
    work: WorkFolder
    progress: Progress
    resources: Resources

    @property
    def device(self) -> str:
        """Where PyTorch computes, by its name in PyTorch."""
        return torch_device(self.resources.device)
