"""Write the model card: README.md with description, usage and measurements of an export."""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import jinja2

from resq_onnx.checkpoint.licence import licence_in_words
from resq_onnx.files import Staging
from resq_onnx.graph.inspection import inspect_model
from resq_onnx.handoff.target import Target
from resq_onnx.recipe import Recipe
from resq_onnx.report.figures import megabytes, method_in_words
from resq_onnx.report.summary import FILE_NAME as SUMMARY_NAME

CARD_NAME: Final = "README.md"
TEMPLATE: Final = "card.md.jinja"

MARK: Final = "Written by resq-onnx: the next export into this folder replaces this file."
"""A comment in every card. A README.md without it is not ours and is kept."""

HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""A model's name on the Hugging Face hub, as opposed to a path."""

FILES: Final = {
    "*.onnx": "the graph",
    "*.onnx.data": "the weights",
    "config.json": "the base model's configuration",
    "generation_config.json": "the base model's default sampling options",
    "tokenizer*": "the tokenizer",
    "special_tokens_map.json": "the tokenizer",
    "added_tokens.json": "the tokenizer",
    "vocab.json": "the tokenizer",
    "merges.txt": "the tokenizer",
    "chat_template.jinja": "the template that turns messages into a prompt",
    "LICEN[CS]E*": "the base model's licence",
    "NOTICE*": "notices that the base model's licence requires to be passed on",
    "USE_POLICY*": "the base model's use policy",
    "resq.json": "recipe, versions, sizes and measurements",
    "report.html": "a page with spectra, errors and sizes",
}
"""Descriptions of files by name pattern."""


def write_card(staging: Staging, target: Target, warn: Callable[[str], None]) -> None:
    """Write the card into the staging folder, in which all other files are complete.

    If the target folder has a README.md that is not a card, the card is `MODEL.README.md`.
    """
    name, other = CARD_NAME, staging.target.with_name(CARD_NAME)
    if other.is_file() and MARK not in other.read_text(encoding="utf-8", errors="replace"):
        name = f"{staging.target.stem}.{CARD_NAME}"
        warn(f"{other} was not written by resq-onnx and is kept; the card is {name}")
    text = render_card(staging.model, target)
    (staging.folder / name).write_text(text, encoding="utf-8")


def render_card(model: Path, target: Target) -> str:
    """The card as text; all its figures come from resq.json or the model's files.

    Args:
        model: The .onnx file in a complete folder, with resq.json.
        target: The runtime for which the folder is written.
    """
    summary = json.loads((model.parent / SUMMARY_NAME).read_text())
    inspection = inspect_model(model)
    recipe = Recipe(**summary["recipe"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"megabytes": megabytes}
    known = {
        "model": model.name,
        "chat": (model.parent / "chat_template.jinja").is_file(),
        "recipe": recipe,
        "platform": sysconfig.get_platform(),
    }
    usage = environment.from_string(target.usage).render(known)
    return environment.get_template(TEMPLATE).render(
        known,
        front_matter=_front_matter(summary),
        mark=MARK,
        target=target,
        usage=usage,
        summary=summary,
        method=method_in_words(summary["recipe"]),
        files=_files(model.parent, target),
        inspection=inspection,
        licence=licence_in_words(summary["licence"]),
    )


def _front_matter(summary: dict[str, Any]) -> str:
    import yaml  # only exports need it

    content: dict[str, Any] = {**summary["licence"]}
    if HUB_NAME.fullmatch(summary["model"]):
        content |= {"base_model": summary["model"], "base_model_relation": "quantized"}
    content |= {"pipeline_tag": "text-generation", "tags": ["onnx", "resq-onnx", "resq"]}
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _files(folder: Path, target: Target) -> list[tuple[str, int, str]]:
    """Name, bytes and description of each file."""
    patterns = {**target.files, **FILES}
    return [
        (
            path.name,
            path.stat().st_size,
            next((said for pattern, said in patterns.items() if fnmatch(path.name, pattern)), ""),
        )
        for path in sorted(folder.iterdir())
    ]
