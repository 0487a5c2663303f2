"""Evaluation: how well a model predicts a text."""

from resq_onnx.evaluation.perplexity import PerplexityResult, perplexity

__all__ = ["PerplexityResult", "perplexity"]
