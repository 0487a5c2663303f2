"""Tiny portable files, and the runtimes that read them, each as a session for `Decoder`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from resq_onnx.handoff.openvino import Entry, OpenVinoSession
from resq_onnx.runtime import Decoder
from tests.tiny_exports import TinyExports
from tests.tiny_models import SIZES

WINDOW: Final = 24


@dataclass(frozen=True)
class Portable:
    """A tiny model and what was exported of it.

    Attributes:
        file: With `--format qdq`.
        floats: With `--method none` as well; None if it was not asked for.
    """

    file: Path
    floats: Path | None = None


def export_portable(
    exports: TinyExports, kind: str, *options: object, floats: bool = False, **sizes: Any
) -> Portable:
    """A tiny model, exported."""
    model, portable = exports.model(kind, tied=kind == "llama", **sizes), ("--format", "qdq")
    return Portable(
        model.export(*portable, *options),
        model.export(*portable, "--method", "none") if floats else None,
    )


def token_ids(batch: int = 2, length: int = WINDOW, seed: int = 0) -> NDArray[np.int64]:
    """Random tokens, none of them special."""
    return np.random.default_rng(seed).integers(3, SIZES["vocab_size"], (batch, length))


class ReferenceSession:
    """onnx's reference evaluator as a session."""

    def __init__(self, path: Path) -> None:
        self._model = onnx.load(path)
        self._evaluator = ReferenceEvaluator(self._model)

    def get_inputs(self) -> list[Entry]:
        return [_entry(value) for value in self._model.graph.input]

    def get_outputs(self) -> list[Entry]:
        return [_entry(value) for value in self._model.graph.output]

    def run(self, names: list[str], feeds: dict[str, NDArray[Any]]) -> list[Any]:
        return list(self._evaluator.run(names, feeds))


def _entry(value: onnx.ValueInfoProto) -> Entry:
    kind = value.type.tensor_type
    names: dict[int, str] = {
        onnx.TensorProto.UINT8: "tensor(uint8)",
        onnx.TensorProto.FLOAT: "tensor(float)",
        onnx.TensorProto.INT64: "tensor(int64)",
    }
    shape = [size.dim_value or None for size in kind.shape.dim]
    return Entry(value.name, names[kind.elem_type], shape)


def _plain(path: Path) -> Any:
    """A session as anybody makes one: no library of ours, no option."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


RUNTIMES: Final[dict[str, Callable[[Path], Decoder]]] = {
    "onnxruntime": lambda path: Decoder(_plain(path)),
    "onnx.reference": lambda path: Decoder(ReferenceSession(path)),
    "openvino": lambda path: Decoder(OpenVinoSession(path, threads=1)),
}
"""By name, what runs a portable file."""
