"""What a target is: a runtime that exported models are handed to, as a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resq_onnx.errors import ResqError
from resq_onnx.recipe import Recipe


def _nothing(model: Path, recipe: Recipe) -> None:
    """For a runtime that takes the folder as every export writes it."""


@dataclass(frozen=True)
class Target:
    """A runtime, and what its folder holds beyond model, data, tokenizer and configuration.

    Attributes:
        name: For `--target`.
        about: Where the model runs, in words that follow "for".
        formats: The formats it can read; the first is its default.
        usage: How to run the model: Markdown under the card's heading, a Jinja template of
            `model` (the file's name), `chat` (whether there is a chat template), `recipe`, and
            `platform` (the machine's).
        defaults: Fields of a recipe, other than the format, that this runtime changes.
        files: What the files are that `write` adds, by name: for the card.
        check: Refuses with a ResqError, before anything is done, what `write` would need and
            lack, or what the runtime cannot run.
        write: Adds files to the folder of a written model; told the .onnx file and its recipe.
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
        """The recipe for this target: its defaults, and over them what a user has chosen.

        Raises:
            ResqError: The recipe is invalid, or this target cannot have it.
        """
        recipe = Recipe(**{"format": self.formats[0], **self.defaults, **chosen})
        self.accept(recipe)
        return recipe

    def accept(self, recipe: Recipe) -> None:
        """Refuse a recipe whose file this target could not run.

        Raises:
            ResqError: It could not.
        """
        if recipe.format not in self.formats:
            raise ResqError(
                f"target {self.name} reads format {' or '.join(self.formats)}, and the recipe says "
                f"{recipe.format}: drop --format, or choose another --target"
            )
        self.check(recipe)
