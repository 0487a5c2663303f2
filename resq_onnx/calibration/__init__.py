"""Calibration: texts, and the second moments of a model's activations on them.

This package imports nothing, so that `corpus` needs neither torch nor transformers.
"""
