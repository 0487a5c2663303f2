"""`python -m resq_onnx.harness`: lm_eval's own command line, which knows `--model resq-onnx`."""

from __future__ import annotations

from resq_onnx.errors import ResqError
from resq_onnx.harness.registry import register


def main() -> None:
    """Hand the command line over to lm_eval; an error the user can put right is one line."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except ResqError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
