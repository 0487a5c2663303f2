"""Evaluate models: perplexity, distance from a reference, layer noise, and speed."""

from resq_onnx.evaluation.comparison import Evaluation, evaluate_models
from resq_onnx.evaluation.distance import Distance
from resq_onnx.evaluation.models import ExportedModel, LanguageModel, LayeredModel, TappedModel
from resq_onnx.evaluation.perplexity import PerplexityResult
from resq_onnx.evaluation.windows import Windowing

__all__ = [
    "Distance",
    "Evaluation",
    "ExportedModel",
    "LanguageModel",
    "LayeredModel",
    "PerplexityResult",
    "TappedModel",
    "Windowing",
    "evaluate_models",
]
