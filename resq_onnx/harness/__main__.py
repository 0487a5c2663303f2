"""lm-eval's command line, with the model `resq-onnx` in it.

python -m resq_onnx.harness --model resq-onnx --model_args path=OUT.onnx --tasks ...
"""

from __future__ import annotations

import sys

from resq_onnx.errors import ResqError
from resq_onnx.harness import MODEL_CLASS, MODEL_NAME


def main() -> None:
    """Register the model, then do all that the program `lm_eval` does with these arguments."""
    try:
        import lm_eval.models  # noqa: F401, its own models must be there before ours
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import model_registry
    except ModuleNotFoundError as error:
        sys.exit(
            f"Error: {error.name} is missing, which evaluations by lm-eval need; "
            f'run `pip install "resq-onnx[harness]"`'
        )
    if MODEL_NAME not in model_registry:
        model_registry.register(MODEL_NAME, target=MODEL_CLASS)
    try:
        cli_evaluate()
    except ResqError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
