"""Register the model with lm_eval."""

from __future__ import annotations

from typing import Final

from resq_onnx.errors import ResqError

NAME: Final = "resq-onnx"
CLASS: Final = "resq_onnx.harness.model:ResqOnnx"


def register() -> None:
    """Register the model under `NAME`, unless its entry point already did.

    Raises:
        ResqError: lm_eval is not installed.
    """
    try:
        import lm_eval.models  # noqa: F401, it fills the registry only if that is empty
        from lm_eval.api.registry import model_registry
    except ModuleNotFoundError as error:
        raise ResqError(
            f"the lm-evaluation-harness needs {error.name}; run `pip install resq-onnx[harness]`"
        ) from None
    if NAME not in model_registry:
        model_registry.register(NAME, target=CLASS)
