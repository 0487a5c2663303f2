"""Write the float model, and compare its logits with those of the original model."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import onnx_ir as ir

from resq_onnx.calibration.measured import ReferenceMeasurements
from resq_onnx.evaluation.against_float import observe
from resq_onnx.evaluation.distance import Distance
from resq_onnx.evaluation.parity import check_float_parity
from resq_onnx.files import writing_to
from resq_onnx.graph.files import save_model
from resq_onnx.handoff.output import Output
from resq_onnx.runtime.outputs import ModelOutputs
from resq_onnx.runtime.taps import open_tapped

WHOLE_BYTES: Final = 256_000_000
"""Size of a float model up to which it is also checked in one piece."""


def check_float(
    graph: ir.Model, measured: ReferenceMeasurements, output: Output
) -> tuple[Distance, ModelOutputs | None]:
    """Write the float model, to a temporary file unless it is kept, and compare its logits.

    Returns:
        The distance of its logits from the reference's, and, where PyTorch's are not known, its
        outputs on the text on which it is later compared with the quantised model.
    """
    staging, kept = output.staging, output.kept
    with tempfile.TemporaryDirectory(dir=staging.folder) as scratch:
        target, path = staging.target, Path(scratch) / "float.onnx"
        if kept is not None:
            target, path = kept.target, kept.model
        with writing_to(target):
            save_model(graph, path)
        tapped = open_tapped(path, threads=output.threads)
        found, _ = tapped.decoder.run(measured.token_ids)
        distance = check_float_parity(
            measured.logits, found, measured.token_ids, measured.reference
        )
        if measured.long is not None:
            return distance, None
        with writing_to(staging.target):
            return distance, observe(tapped, measured.text, staging.folder)
