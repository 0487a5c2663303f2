"""Bases whose rotations are fitted to rows of the calibration text: the start of any training."""

from __future__ import annotations

from typing import Final

from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.layer_pass import LayerPass
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.training.fitting import fit
from resq_onnx.calibration.training.turned import TurnedBases, keep_turned, kept_turned
from resq_onnx.projections import Projections
from resq_onnx.recipe import Recipe

FITTED: Final = "fitted"


def fitted_bases(
    run: CalibrationRun, recipe: Recipe, bases: Projections, layer_pass: LayerPass
) -> Projections:
    """Fit the rotations of bases, in the first process; the others wait for them.

    Args:
        run: The calibration; the rotations are kept in its work folder, since a stopped export no
            longer has all rows.
        recipe: The settings; its bits, clip and seed are used.
        bases: Start values.
        layer_pass: The finished pass, which kept rows.
    """
    share = share_of_this_process()
    if share.rank == 0 and not run.work.has(FITTED):
        run.progress.step("Fitting the rotations")
        turned = TurnedBases(bases, recipe, run.device)
        fit(turned, layer_pass.rows(), recipe.seed, run.progress.advance)
        keep_turned(run.work, FITTED, turned.exact(bases))
    share.wait()
    return kept_turned(run.work, FITTED, bases)
