"""Recipe of a command: the fields of a `--recipe` file, overridden by the options given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from resq_onnx.errors import ResqError
from resq_onnx.files import refuse_overwriting
from resq_onnx.files.recipe_file import RecipeFile, read_recipe_file
from resq_onnx.handoff.targets import target_named
from resq_onnx.methods import METHODS
from resq_onnx.recipe import Recipe

TUNING: Final = frozenset({"tuning_minutes", "tuning_steps"})
UNTUNED: Final[dict[str, Any]] = {"tuning_minutes": None, "tuning_steps": 0}
"""Fields of a recipe, and those of one without tuning."""


def _read(_context: click.Context, _option: click.Parameter, path: Path | None) -> RecipeFile:
    return RecipeFile() if path is None else read_recipe_file(path)


recipe_option = click.option(
    "--recipe",
    "said",
    type=click.Path(path_type=Path),
    callback=_read,
    metavar="FILE",
    help="Take options not given here from this file: the resq.json of an export to be "
    "repeated, or a JSON object of recipe fields.",
)
"""A file whose recipe is the default of every option."""


def recipe_for(
    said: RecipeFile,
    chosen: dict[str, Any],
    target: str,
    out: Path,
    *,
    calibrates: bool,
    tunes: bool = True,
) -> tuple[str, Recipe]:
    """Target and recipe of a command that quantises, checked before the slow imports.

    Args:
        said: The contents of the file of `--recipe`.
        chosen: The options that are fields of a recipe.
        target: The option of that name.
        out: The file that the command writes.
        calibrates: Whether the command reads the calibration text, if the recipe needs one.
        tunes: Whether the command can tune weights.

    Raises:
        ResqError: The recipe is invalid, the target does not support it, or its text is unknown.
    """
    if said.target is not None and not _is_given("target"):
        target = said.target
    with _naming(said):
        make, fields = target_named(target).recipe, _fields(said, chosen, out)
        recipe = make(**_tuned_as_usual(said, fields, make) if tunes else fields | UNTUNED)
    if recipe.must_tune or (calibrates and recipe.needs_calibration):
        _check_text(said)
    return target, recipe


def calibration_for(said: RecipeFile, chosen: dict[str, Any], out: Path) -> Recipe:
    """The same for a command that calibrates, for any target.

    Raises:
        ResqError: As for `recipe_for`.
    """
    with _naming(said):
        recipe = Recipe(**_fields(said, chosen, out))
    _check_text(said)
    return recipe


def _fields(said: RecipeFile, chosen: dict[str, Any], out: Path) -> dict[str, Any]:
    if said.path is not None:
        refuse_overwriting([out], [said.path])
    given = {name: chosen[name] for name in chosen if _is_given(name)}
    return {**said.fields, **given, **_training(said.fields, given), **_tuning(given)}


def _tuned_as_usual(
    said: RecipeFile, fields: dict[str, Any], make: Callable[..., Recipe]
) -> dict[str, Any]:
    """The fields, without the file's tuning if its method or rounding is not that of the recipe.

    Raises:
        ResqError: Either recipe is invalid.
    """
    if not TUNING & said.fields.keys() or any(map(_is_given, TUNING)):
        return fields
    usual = _without_tuning(fields)
    now = make(**usual)
    before = Recipe(**{"format": now.format, **_without_tuning(said.fields)})
    same = (before.method, before.rounds) == (now.method, now.rounds)
    return fields if same else usual


def _without_tuning(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in TUNING}


def _training(said: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that follow from minutes or steps of training on the command line.

    Raises:
        ResqError: The command line also asks for rotations that are not trained.
    """
    if not {"training_minutes", "training_steps"} & given.keys():
        return {}
    if given.get("rotations") in ("random", "fitted"):
        raise ResqError(f"--rotations {given['rotations']} is not trained; omit it, or --train")
    method = METHODS.get(given.get("method", said.get("method", Recipe.method)))
    fields: dict[str, Any] = {}
    if method is None or method.training != "always":
        fields["rotations"] = "trained"
    if "training_steps" not in given:
        fields["training_steps"] = None
    return fields


def _tuning(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that follow from minutes of tuning on the command line."""
    if given.get("tuning_minutes") == 0 == given.get("tuning_steps", 0):
        return UNTUNED
    if "tuning_steps" in given or "tuning_minutes" not in given:
        return {}
    return {"tuning_steps": None}  # not those of another number of minutes


def _is_given(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source not in (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


@contextmanager
def _naming(said: RecipeFile) -> Iterator[None]:
    """Name the recipe file in an error that its contents may have caused."""
    try:
        yield
    except ResqError as error:
        if said.path is None:
            raise
        raise ResqError(f"the recipe of {said.path} with the options given: {error}") from error


def _check_text(said: RecipeFile) -> None:
    """Reject a text known only by name: another file here may have the same name."""
    from resq_onnx.calibration.texts import FILE_SUFFIXES

    text = said.fields.get("calibration", "")
    if said.is_summary and Path(text).suffix in FILE_SUFFIXES and not _is_given("calibration"):
        raise ResqError(
            f"{said.path}: has only the name of its calibration text, {text}; say where that file "
            f"is by --calibration FILE"
        )
