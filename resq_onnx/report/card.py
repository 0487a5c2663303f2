"""README.md beside an exported model: what it is, how to run it, and what was measured of it."""

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
"""A comment in every card. A README.md without it is somebody's work, and stays."""

HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""A model's name on the Hugging Face hub, and no path."""

FILES: Final = {
    "*.onnx": "the graph",
    "*.onnx.data": "the weights",
    "config.json": "the base model's configuration",
    "generation_config.json": "how the base model's authors sample from it",
    "tokenizer*": "the tokenizer",
    "special_tokens_map.json": "the tokenizer",
    "added_tokens.json": "the tokenizer",
    "vocab.json": "the tokenizer",
    "merges.txt": "the tokenizer",
    "chat_template.jinja": "how messages become a prompt",
    "LICEN[CS]E*": "the base model's licence",
    "NOTICE*": "what the base model's licence wants to be passed on",
    "USE_POLICY*": "what the base model may be used for",
    "resq.json": "recipe, versions, sizes and all that was measured",
    "report.html": "a page with spectra, errors and sizes",
}
"""By pattern of a name, what the file holds."""


def write_card(staging: Staging, target: Target, warn: Callable[[str], None]) -> None:
    """Write the card into the staging folder, which is complete but for it.

    Where somebody else's README.md lies already, the card is `MODEL.README.md`.
    """
    name, other = CARD_NAME, staging.target.with_name(CARD_NAME)
    if other.is_file() and MARK not in other.read_text(encoding="utf-8", errors="replace"):
        name = f"{staging.target.stem}.{CARD_NAME}"
        warn(f"{other} is not a card of resq-onnx and stays; the card is {name}")
    text = render_card(staging.model, target)
    (staging.folder / name).write_text(text, encoding="utf-8")


def render_card(model: Path, target: Target) -> str:
    """The card as text; every figure in it is one of resq.json, or read from the files.

    Args:
        model: The .onnx file of a folder that has all its files, resq.json among them.
        target: The runtime the folder is for.
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
    """Name, bytes and meaning of each file."""
    patterns = {**target.files, **FILES}
    return [
        (
            path.name,
            path.stat().st_size,
            next((said for pattern, said in patterns.items() if fnmatch(path.name, pattern)), ""),
        )
        for path in sorted(folder.iterdir())
    ]
