"""The calibration text of a recipe: read, or written by the model, or both.

The token ids of a text that the model has a part in are kept in the work folder: an export that was
stopped goes on with them, and so do processes beside the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.built_in import BUNDLED, SELF, shares_of
from resq_onnx.calibration.corpus import calibration_sequences
from resq_onnx.calibration.distributed import share_of_this_process
from resq_onnx.calibration.own_text import own_text
from resq_onnx.calibration.reference import text_opening
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.writing import CannotWriteError
from resq_onnx.recipe import Recipe


@dataclass(frozen=True)
class CalibrationText:
    """A calibration text.

    Attributes:
        token_ids: (samples, sequence_length), with fewer rows if there is less text.
        spec: What it is, as a recipe says it: `BUNDLED` where the model could not write.
    """

    token_ids: NDArray[np.int64]
    spec: str


def calibration_text(
    run: CalibrationRun, recipe: Recipe, *, may_be_short: bool = False
) -> CalibrationText:
    """The calibration text of a recipe.

    Under torchrun every process calls this, and all get the text of the first one.

    Args:
        run: The calibration; a text that the model wrote is kept in its work folder. Its progress
            receives a warning if there is less text than wanted, or the model cannot write.
        recipe: Its calibration, samples, sequence length, BOS and seed are used.
        may_be_short: Whether less text than wanted needs no warning.

    Raises:
        ResqError: The text cannot be read, or PyTorch cannot load the model.
    """
    source, tokenizer, work, progress = run.source, run.tokenizer, run.work, run.progress
    opening = text_opening(tokenizer, source, recipe.bos)
    warn = (lambda _line: None) if may_be_short else progress.warn
    spec = recipe.calibration

    def read(shares: Mapping[str, int]) -> NDArray[np.int64]:
        length, seed = recipe.sequence_length, recipe.seed
        parts = [
            calibration_sequences(tokenizer, text, samples, length, seed, warn, opening)
            for text, samples in shares.items()
        ]
        return np.concatenate(parts or [np.empty((0, length), np.int64)])

    shares = shares_of(spec, recipe.samples)
    own = shares.pop(SELF, 0)
    if not own:
        return CalibrationText(read(shares), spec)
    share, part = share_of_this_process(), f"text-{recipe.samples}"
    if share.rank == 0 and not work.has(part):
        asked = (source, tokenizer, (own, recipe.sequence_length), opening, recipe.seed)
        try:
            written = own_text(*asked, run.resources, progress)
            ids = np.concatenate([read(shares), written])
        except CannotWriteError as reason:
            progress.warn(
                f"the model does not write its calibration text ({reason}); the texts of this "
                f"package ({BUNDLED}) take its place, and --calibration FILE, text like your own, "
                "does better"
            )
            spec, ids = BUNDLED, read(shares_of(BUNDLED, recipe.samples))
        work.save(part, {"token_ids": ids, "spec": np.frombuffer(spec.encode(), np.uint8)})
    share.wait()
    kept = work.load(part)
    return CalibrationText(kept["token_ids"], kept["spec"].tobytes().decode())
