"""The float model: written to be compared, with PyTorch and with the quantised one, or kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from resq_onnx.calibration.measured import Measured
from resq_onnx.errors import ResqError
from resq_onnx.evaluation.against_float import Observed, observe
from resq_onnx.evaluation.parity import Agreement, check_float_parity
from resq_onnx.files import Staging, staged, writing_to
from resq_onnx.graph.files import save_model
from resq_onnx.runtime.library import kernels_run
from resq_onnx.runtime.taps import TappedDecoder, tapped_session


@contextmanager
def staged_float(target: str | Path | None, out: str | Path) -> Iterator[Staging | None]:
    """Stage the float model too, if it is asked for: both appear in the end, or neither."""
    if target is None:
        yield None
        return
    if Path(target).absolute() == Path(out).absolute():
        raise ResqError(f"{target}: is to hold both models; name another file for --save-rotated")
    with staged(target) as staging:
        yield staging


def check_float(
    graph: ir.Model, measured: Measured, staging: Staging, kept: Staging | None
) -> tuple[Agreement, Observed]:
    """Write the float model, to where it is kept or for the moment, and compare its logits.

    Returns:
        How near they are to the reference's, and what the float model makes of the text on which
        it is to be compared with the quantised one.
    """
    with tempfile.TemporaryDirectory(dir=staging.folder) as scratch:
        target, path = staging.target, Path(scratch) / "float.onnx"
        if kept is not None:
            target, path = kept.target, kept.model
        with writing_to(target):
            save_model(graph, path)
        tapped = open_tapped(path)
        found, _ = tapped.decoder.run(measured.token_ids)
        agreement = check_float_parity(
            measured.logits, found, measured.token_ids, measured.reference
        )
        return agreement, observe(tapped, measured.text)


def open_tapped(path: Path, dtype: str = "float32") -> TappedDecoder:
    """Open a written model whose activations are of this type, with its residual stream tapped."""
    return TappedDecoder(tapped_session(path, kernels=kernels_run(dtype)))
