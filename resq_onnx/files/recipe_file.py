"""Read a recipe from a file: the resq.json beside an exported model, or the fields alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from resq_onnx.errors import ResqError
from resq_onnx.files.contents import read_json
from resq_onnx.recipe import Recipe

FILE_NAME: Final = "resq.json"

REMEDY: Final = f"give the {FILE_NAME} that an export wrote, or a JSON object of recipe fields"

WORDS: Final = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
}
"""Descriptions of the field types, for messages."""


@dataclass(frozen=True)
class RecipeFile:
    """Contents of a recipe file.

    Attributes:
        fields: The recipe's fields that are present, checked for their types.
        target: The runtime that the export was for; None if the file does not specify it.
        path: The file; None if there is no file.
        is_summary: Whether an export wrote it. It then has only the name of a calibration file, not
            its path.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    target: str | None = None
    path: Path | None = None
    is_summary: bool = False


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a file; missing fields have their defaults.

    If the calibration text is a file, resq.json has only its name. Set its path by
    `dataclasses.replace(recipe, calibration=...)`; with `tuning_steps=0` and a projections file an
    export reads no text.

    Args:
        path: The resq.json that an export wrote, its folder, or a JSON object of fields.

    Raises:
        ResqError: The file cannot be read, or does not contain a recipe that this version knows.
    """
    said = read_recipe_file(path)
    try:
        return Recipe(**said.fields)
    except ResqError as error:
        raise ResqError(f"{said.path}: {error}") from None


def read_recipe_file(path: str | Path) -> RecipeFile:
    """Read all contents of a recipe file; only the types of its values are checked.

    Raises:
        ResqError: The file cannot be read, or has an unknown field.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    content = read_json(path, REMEDY)
    is_summary = "recipe" in content
    fields, target = (content["recipe"], content.get("target")) if is_summary else (content, None)
    if not isinstance(fields, dict) or not isinstance(target, str | NoneType):
        raise ResqError(f"{path}: its recipe or its target is damaged; {REMEDY}")
    _check(fields, path)
    if is_summary and fields.get("tuning_minutes") is None and fields.get("tuning_steps") is None:
        fields = fields | {"tuning_steps": 0}  # an export says the number, if it tuned weights
    return RecipeFile(fields, target, path, is_summary)


def _check(fields: Mapping[str, Any], path: Path) -> None:
    """Reject unknown fields, from a newer version or a typing error."""
    kinds = get_type_hints(Recipe)
    if unknown := sorted(fields.keys() - kinds.keys()):
        raise ResqError(
            f"{path}: no recipe that this version knows has {', '.join(map(repr, unknown))}; use "
            f"the version of resq-onnx that wrote the file, or correct it"
        )
    for name, value in fields.items():
        allowed = get_args(kinds[name]) if isinstance(kinds[name], UnionType) else (kinds[name],)
        if not any(_is(value, kind) for kind in allowed):
            words = " or ".join(WORDS[kind] for kind in allowed)
            raise ResqError(f"{path}: {name} is {value!r}; it must be {words}")


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:  # the recipe itself says which there are
        return True
    return type(value) is kind or (kind is float and type(value) is int)
