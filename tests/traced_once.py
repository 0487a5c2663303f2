"""Models of equal configurations have equal graphs, and tracing them is most of a tiny export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import pytest

from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.tracing import trace

_export_without_weights = trace._export_without_weights


@contextmanager
def tracing_equal_models_once() -> Iterator[None]:
    """Within it, what was traced of an equal config.json is copied: no weights are part of it."""
    traced: dict[bytes, ir.Model] = {}

    def remembered(source: ModelSource) -> ir.Model:
        config = (source.folder / "config.json").read_bytes()
        if config not in traced:
            traced[config] = _export_without_weights(source)
        return traced[config].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_export_without_weights", remembered)
        yield


@contextmanager
def tracing_anew() -> Iterator[None]:
    """Within it, everything is traced again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_export_without_weights", _export_without_weights)
        yield
