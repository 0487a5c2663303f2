"""A tiny model as it was and as it came out, and how far apart the two may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from resq_onnx.evaluation.distance import compare
from tests.end_to_end.tiny_text import torch_logits
from tests.tiny_exports import TinyModel


@dataclass(frozen=True)
class Exported:
    """A tiny model, as it was and as it came out, with the float model beside it."""

    source: TinyModel
    out: Path

    @classmethod
    def of(cls, source: TinyModel) -> Exported:
        return cls(source, source.export(rotated=True))

    @property
    def original(self) -> PreTrainedModel:
        return self.source.original

    @property
    def model(self) -> Path:
        return self.source.folder

    @property
    def rotated(self) -> Path:
        return self.out.with_name("float.onnx")

    @property
    def data(self) -> Path:
        return self.out.with_name(f"{self.out.name}.data")


def quantisation_divergence(
    exported: Exported, ids: NDArray[np.int64], one_pass: NDArray[np.float32]
) -> float:
    """How far quantisation moved the logits: a bound for what rounding noise may do.

    Another order of a float sum can move an integer by one, and then all tokens after it a
    little. A low bit flipped in the cache of every row gives a seventh of this bound, a token
    that decode forgets three times as much.
    """
    return compare(torch_logits(exported.original, ids), one_pass, ids).kl_divergence
