"""Bases whose rotations are fitted to rows of the calibration text: the start of any training."""

from __future__ import annotations

from typing import Final

from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.layer_pass import LayerPass
from resq_onnx.calibration.training.fitting import fit
from resq_onnx.calibration.training.turned import TurnedBases, keep_turned, kept_turned
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.progress import Progress
from resq_onnx.projections import Projections
from resq_onnx.recipe import Recipe

FITTED: Final = "fitted"


def fitted_bases(
    recipe: Recipe,
    bases: Projections,
    layer_pass: LayerPass,
    work: WorkFolder,
    progress: Progress,
    device: str,
) -> Projections:
    """Fit the rotations of bases, in the first process; the others wait for them.

    Args:
        recipe: The settings; its bits, clip and seed are used.
        bases: Start values.
        layer_pass: The finished pass, which kept rows.
        work: Where the rotations are kept: a stopped export no longer has all rows.
        progress: Receives progress updates.
        device: Where PyTorch computes.
    """
    share = share_of_this_process()
    if share.rank == 0 and not work.has(FITTED):
        progress.step("Fitting the rotations")
        turned = TurnedBases(bases, recipe, device)
        fit(turned, layer_pass.rows(), recipe.seed, progress.advance)
        keep_turned(work, FITTED, turned.exact(bases))
    share.wait()
    return kept_turned(work, FITTED, bases)
