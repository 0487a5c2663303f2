"""The record of a target: a runtime for which exported models are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resq_onnx.errors import ResqError
from resq_onnx.recipe import Recipe


def _nothing(model: Path, recipe: Recipe) -> None:
    """Add no files, for a runtime that needs none."""


@dataclass(frozen=True)
class Target:
    """A runtime, and the files of its folder besides model, data, tokenizer and configuration.

    Attributes:
        name: Value of `--target`.
        about: Where the model runs, in words that follow "for".
        formats: The formats that the runtime can read; the first is the default.
        usage: How to run the model: Markdown for the card, as a Jinja template of `model` (the
            file's name), `chat` (whether there is a chat template), `recipe`, and `platform`
            (of this machine).
        defaults: Fields of a recipe, other than the format, whose defaults differ.
        files: Descriptions of the files that `write` adds, by name, for the card.
        check: Called before any work; raises a ResqError if `write` would lack something, or if
            the runtime cannot run the recipe.
        write: Adds files to the folder of a written model; gets the .onnx file and its recipe.
    """

    name: str
    about: str
    formats: tuple[str, ...]
    usage: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Recipe], None] = lambda _recipe: None
    write: Callable[[Path, Recipe], None] = _nothing

    def recipe(self, **chosen: Any) -> Recipe:
        """The recipe for this target: its defaults, overridden by the user's choices.

        Raises:
            ResqError: The recipe is invalid, or this target does not support it.
        """
        recipe = Recipe(**{"format": self.formats[0], **self.defaults, **chosen})
        self.accept(recipe)
        return recipe

    def accept(self, recipe: Recipe) -> None:
        """Refuse a recipe that this target does not support.

        Raises:
            ResqError: The format or another field is not supported.
        """
        if recipe.format not in self.formats:
            raise ResqError(
                f"target {self.name} reads format {' or '.join(self.formats)}, but the recipe has "
                f"{recipe.format}: drop --format, or choose another --target"
            )
        self.check(recipe)
