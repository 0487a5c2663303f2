"""What tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MODEL_VARIABLE = "RESQ_TEST_MODEL"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a .gguf file, which `make test` fetches.

    Skips the test where there is none; in CI that is a failure.
    """
    model = Path(os.environ.get(MODEL_VARIABLE, ""))
    if model.is_file():
        return model
    reason = f"{MODEL_VARIABLE} names no file: run `make test`, or scripts/fetch_smollm2.py"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
