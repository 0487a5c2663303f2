"""Text for whole models."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray

from resq_onnx.runtime import Tokenizer


def text_ids(model: Path, rows: int, length: int) -> NDArray[np.int64]:
    """The beginning of Python's language reference as tokens of a model, (rows, length)."""
    text = "\n\n".join(topics[name] for name in sorted(topics)[:20])
    ids = Tokenizer.load(model.parent).encode(text, add_special_tokens=False)
    return np.array(ids[: rows * length]).reshape(rows, length)
