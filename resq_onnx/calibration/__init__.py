"""Calibration: texts, and the second moments of a model's activations on them.

`corpus` needs neither torch nor transformers; nothing is imported here, so that it stays so.
"""
