"""Calibration: texts, and the second moments of a model's activations on them."""

from resq_onnx.calibration.corpus import calibration_sequences, load_text
from resq_onnx.calibration.distributed import collect_shared_moments, is_main_process
from resq_onnx.calibration.statistics import collect_moments

__all__ = [
    "calibration_sequences",
    "collect_moments",
    "collect_shared_moments",
    "is_main_process",
    "load_text",
]
