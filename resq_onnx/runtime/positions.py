"""Context length of a model: the number of positions in the config.json beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from resq_onnx.files.contents import read_json
from resq_onnx.runtime.tokenizer import REMEDY

CONFIG: Final = "config.json"

NAME: Final = "max_position_embeddings"


def positions_of(folder: Path) -> int | None:
    """Positions of the model in a folder; None if its config.json does not specify them.

    Raises:
        ResqError: config.json is there and cannot be read.
    """
    config = read_json(folder / CONFIG, REMEDY, optional=True)
    section = config.get("text_config")  # of a model that reads images too
    found = [one.get(NAME) for one in (section, config) if isinstance(one, dict)]
    return next((one for one in found if type(one) is int and one > 0), None)
