"""A text for tiny models, and what makes logits of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from resq_onnx.runtime import Decoder, Tokenizer, create_session

TEXT: Final = "A compound statement contains other statements; they affect their execution. " * 8

WINDOW: Final = 32


def token_ids(folder: Path, windows: int = 4) -> NDArray[np.int64]:
    """The beginning of TEXT, (windows, WINDOW)."""
    ids = Tokenizer.load(folder).encode(TEXT, add_special_tokens=False)
    return np.array(ids[: windows * WINDOW]).reshape(windows, WINDOW)


def torch_logits(model: PreTrainedModel, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    with torch.no_grad():
        logits: NDArray[np.float32] = model(input_ids=torch.from_numpy(ids)).logits.numpy()
    return logits


def prefill(path: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    return Decoder(create_session(path)).run(ids)[0]
