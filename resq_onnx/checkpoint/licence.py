"""Licence of a model, as stated in its config.json or README.md, and its licence files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from resq_onnx.files import Staging, copy_file

KEYS: Final = ("license", "license_name", "license_link")
"""Field names in Hugging Face's model cards; the last two go with `license: other`."""

FILES: Final = re.compile(r"(licen[cs]e|notice|use_policy)(\.(md|txt))?", re.IGNORECASE)
"""Names of files that most licences require to be passed on."""

MOST_BYTES: Final = 1 << 16
"""Number of bytes of a README.md to search: its front matter has only a few lines."""


def stated_licence(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The licence stated in config.json or, failing that, in the front matter of README.md.

    Returns:
        The `KEYS` that are present, including `license`; empty if neither file states a licence.
    """
    for said in (config, front_matter(folder / "README.md")):
        found = {key: _text(said[key]) for key in KEYS if said.get(key)}
        if "license" in found:
            return found
    return {}


def copy_licence_files(folder: Path, staging: Staging, warn: Callable[[str], None]) -> None:
    """Copy a model's licence and notices, unless that would overwrite another licence."""
    for file in sorted(folder.iterdir()):
        if not file.is_file() or not FILES.fullmatch(file.name):
            continue
        there = staging.target.with_name(file.name)
        if there.is_file() and there.read_bytes() != file.read_bytes():
            warn(f"{there} is not the base model's and stays; pass {file} on with the model")
        else:
            copy_file(file, staging.folder / file.name)


def licence_in_words(stated: Mapping[str, str]) -> str:
    """A readable phrase; `not stated` if nothing is known."""
    name = stated.get("license_name") or stated.get("license") or "not stated"
    link = stated.get("license_link")
    return f"{name} ({link})" if link else name


def front_matter(path: Path) -> dict[str, Any]:
    """The YAML between the first two lines of dashes of a Markdown file; empty if there is none."""
    import yaml  # only exports need it

    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_BYTES)
    except (OSError, UnicodeDecodeError):
        return {}
    opening, _, rest = text.partition("\n")
    block, closing, _ = rest.partition("\n---")
    if opening.rstrip() != "---" or not closing:
        return {}
    try:
        found = yaml.safe_load(block)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str:
    """A value of YAML in one line; a model may have several licences."""
    listed = value if isinstance(value, list) else [value]
    return " ".join(", ".join(str(one) for one in listed).split())
