"""A check of tokenizer.json for what makes the `tokenizers` library abort the whole process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from resq_onnx.errors import ResqError
from resq_onnx.files.contents import read_json

PREFIXED: Final = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')
"""In the few files that have such a prefix; the others need not be parsed here."""


def check_tokenizer_file(path: Path, remedy: str) -> None:
    """Reject merges whose second token does not begin with the prefix of continuing subwords.

    The library cuts the prefix off by its length, which may leave half a character.

    Args:
        path: An existing tokenizer.json; what else is wrong with it, the library says.
        remedy: What to do.

    Raises:
        ResqError: There is such a merge.
    """
    if not path.is_file() or not PREFIXED.search(path.read_bytes()):
        return
    model = read_json(path, remedy).get("model")
    model = model if isinstance(model, dict) else {}
    prefix, merges = model.get("continuing_subword_prefix"), model.get("merges")
    if not isinstance(prefix, str) or not isinstance(merges, list):
        return
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or not pair or not str(pair[-1]).startswith(prefix):
            raise ResqError(
                f"{path}: not a tokenizer: the merge {merge!r} does not go on with its "
                f"continuing_subword_prefix, {prefix!r}; {remedy}"
            )
