"""An exported file as a model of the lm-evaluation-harness (the package lm-eval).

`model.py` is the model; `python -m resq_onnx.harness` is lm-eval's command line with the model in
it. Releases of lm-eval that look for models of other packages, in the entry points of the group
`lm_eval.models`, find it by themselves; 0.4.13 does not.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MODEL_CLASS", "MODEL_NAME"]

MODEL_NAME: Final = "resq-onnx"
"""What `--model` calls it."""

MODEL_CLASS: Final = "resq_onnx.harness.model:ExportedLM"
"""Where it is, as entry points and lm-eval's registry write it."""
