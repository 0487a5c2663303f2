"""Download models from the Hugging Face hub by name, into its cache."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Thread
from typing import Final

from resq_onnx.errors import ResqError, reason

NAME: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
"""Owner and name of a model."""

ADDRESS: Final = re.compile(rf"(?:hf:|https?:/+(?:www\.)?huggingface\.co)/+({NAME.pattern})/*")
"""The same as a URL. `Path` may have collapsed two slashes into one."""

OTHER_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)

FILES: Final = (".gguf", ".onnx", ".safetensors", ".json", ".txt")
"""Suffixes that mark the name of a file, not of a model."""

PATTERNS: Final = (
    *("*.json", "*.safetensors", "tokenizer.model", "merges.txt", "*.jinja"),
    *("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"),
)
"""Files to download: weights, tokenizer, configuration and licence; no executable code."""

PATIENCE: Final = 10.0
"""Seconds to wait for the hub's first answer, whatever on the way to it is silent."""


def hub_name(path: str | Path) -> str | None:
    """The name on the hub for a path that does not exist here; None if it is not a valid name.

    Raises:
        ResqError: It is a URL of something else.
    """
    text = str(path)
    if Path(path).exists():
        return None
    if found := ADDRESS.fullmatch(text):
        return found[1]
    if OTHER_ADDRESS.match(text):
        raise ResqError(
            f"{text}: an address, and only models on the Hugging Face hub are fetched, as "
            "OWNER/NAME or hf://OWNER/NAME; download the model, and give its path"
        )
    is_name = NAME.fullmatch(text) and not text.lower().endswith(FILES)
    return text if is_name and not Path(path).parent.exists() else None


def fetch_model(name: str) -> Path:
    """The folder of a model, downloaded from the hub or already in its cache.

    Raises:
        ResqError: There is no such model, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ResqError(
            f"{name}: no such folder here, and to fetch it from the Hugging Face hub "
            f'huggingface_hub must be installed: pip install "resq-onnx[export]"'
        ) from None
    away = unreachable()
    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=list(PATTERNS),
                etag_timeout=PATIENCE,
                local_files_only=away is not None,
            )
        )
    except Exception as error:  # of the network, the hub or the disk: no common base
        refused = f"the Hugging Face hub does not give it ({reason(error)})"
        raise ResqError(
            f"{name}: no such folder here, and {away or refused}; where there is a network, run "
            f"`hf download {name}`, and give the folder that it prints"
        ) from error


def unreachable() -> str | None:
    """Why the hub cannot be reached; None if it answers.

    Without asking first, huggingface_hub may wait for ever, and `datasets` tries for minutes.
    """
    from huggingface_hub import constants, get_session

    wrong = [f"no answer within {PATIENCE:g} seconds"]

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PATIENCE)
            wrong.clear()
        except Exception as error:  # of the network or of offline mode: no common base
            wrong[:] = [reason(error).rstrip(".")]

    # In a thread, because nothing limits the time of looking up a name.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return f"the Hugging Face hub cannot be reached ({wrong[0]})" if wrong else None
