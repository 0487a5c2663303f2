"""What is known of a calibration: of a projections file's, or of the one that a recipe asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resq_onnx.calibration.built_in import BUNDLED, SELF, shares_of
from resq_onnx.calibration.texts import FILE_SUFFIXES
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.projections.file import Calibration, load_calibration
from resq_onnx.recipe import Recipe


def known_calibration(
    source: ModelSource, recipe: Recipe, saved: str | Path | None
) -> tuple[Calibration | None, dict[str, Any]]:
    """A projections file, if there is one, and the recipe of the calibration."""
    if saved is None:
        return None, recipe.to_json()
    known = load_calibration(saved)
    check_calibrated(source, known, saved)
    calibrated = Recipe().to_json() | known.recipe_json
    if Path(calibrated["calibration"]).name == Path(recipe.calibration).name:
        calibrated["calibration"] = recipe.calibration  # the file may be in another folder now
    return known, calibrated


def check_calibrated(source: ModelSource, calibration: Calibration, saved: str | Path) -> None:
    """Reject a projections file of another model.

    Raises:
        ResqError: The file belongs to another model.
    """
    if calibration.model_hash != source.digest:
        others = "" if source.layout.longrope is None else ", or for other RoPE factors"
        length = "" if source.max_length is None else f" --max-length {source.max_length}"
        raise ResqError(
            f"{saved}: made for another model{others}; run resq-onnx calibrate {source.name} "
            f"{saved}{length}"
        )


def began(recipe: Recipe, opening: Sequence[int]) -> Recipe:
    """The recipe, with `bos` set if its calibration's sequences began with special tokens."""
    return dataclasses.replace(recipe, bos=bool(opening))


def check_text(recipe: Recipe, calibrated: Mapping[str, Any], what: str, remedy: str) -> None:
    """Refuse a calibration with another text than that of the recipe.

    Args:
        recipe: The settings.
        calibrated: The recipe of the calibration, as `Recipe.to_json` gives it.
        what: Reads the text once more, for the message.
        remedy: What else to do.

    Raises:
        ResqError: A projections file was made from another text.
    """
    asked, fields = recipe.to_json(), ("calibration", "samples", "sequence_length")
    names = [[Path(str(one[name])).name for name in fields] for one in (asked, calibrated)]
    others = [name for name, one, two in zip(fields, *names, strict=True) if one != two]
    written = SELF in shares_of(recipe.calibration, recipe.samples)
    if others == ["calibration"] and written and calibrated["calibration"] == BUNDLED:
        return  # the model could not write its text
    if others:
        raise ResqError(
            f"the projections file was made with another {', '.join(others)}; {what} reads the "
            f"text of the calibration: give the options of the file, no --projections, or {remedy}"
        )


def calibration_fields(calibrated: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a recipe that say how a calibration was measured, and on which text."""
    fields = {name: calibrated[name] for name in ("calibration", "samples", "sequence_length")}
    # Older files do not say the type: there was one.
    return fields | {"dtype_compute": calibrated.get("dtype_compute", "float32")}


def carried_out(recipe: Recipe, calibrated: Mapping[str, Any]) -> Recipe:
    """A recipe with the calibration that was used; its text by name only, as files reveal it."""
    done = calibration_fields(calibrated)
    done["bos"] = calibrated.get("bos", False)  # older files: no special tokens
    if recipe.trains and recipe.training_steps is None:
        done["training_steps"] = calibrated["training_steps"]  # those of a projections file
    if Path(done["calibration"]).suffix in FILE_SUFFIXES:
        done["calibration"] = Path(done["calibration"]).name
    return dataclasses.replace(recipe, **done)
