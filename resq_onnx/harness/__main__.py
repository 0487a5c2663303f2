"""`python -m resq_onnx.harness`: lm_eval's own command line, which knows `--model resq-onnx`."""

from __future__ import annotations

from resq_onnx.errors import ResqError
from resq_onnx.harness.registry import register


def main() -> None:
    """Run lm_eval's command line; print an error that the user can fix as one line."""
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except ResqError as error:
        raise SystemExit(f"Error: {error}") from None


if __name__ == "__main__":
    main()
