"""These tests need the CUDA kernels compiled for this CPU, as `make test-simt` does."""

from __future__ import annotations

import pytest

from resq_onnx.runtime import library

SIMT = "simt"
"""What the library calls itself."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without that library, tests of this folder are left out."""
    if library.instruction_set() == SIMT:
        return
    reason = "RESQ_ONNX_LIBRARY names no libresq_onnx_ops_simt: `make test-simt`"
    skip = pytest.mark.skip(reason=reason)
    for item in items:
        if "tests/simt/" in item.path.as_posix():
            item.add_marker(skip)
