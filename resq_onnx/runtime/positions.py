"""Context length of a model: the number of positions in the config.json beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

CONFIG: Final = "config.json"

NAME: Final = "max_position_embeddings"


def positions_of(folder: Path) -> int | None:
    """Positions of the model in a folder; None if its config.json does not specify them."""
    try:
        config: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict):
        return None
    section = config.get("text_config")  # of a model that reads images too
    found = [one.get(NAME) for one in (section, config) if isinstance(one, dict)]
    return next((one for one in found if type(one) is int and one > 0), None)
