"""A decoder graph small enough to compute by hand.

Its cache holds the tokens themselves. With t = the sum of a token and of all before it that are
not padding, plus its position, the most likely next token is t mod VOCABULARY: wrong caches,
masks and positions all give wrong tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resq_onnx.runtime import Signature

VOCABULARY = 50
LAYERS = 2
KV_HEADS = 3
RECORD = 4
PEAK = 10.0
"""The logit of the most likely token; all others are 0."""

Values = dict[str, tuple[int, list[str | int | None] | None]]
"""Names of inputs or outputs, with element type and shape."""

CACHE_NAMES = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]

SIGNATURE = Signature((), (), (), True, False, VOCABULARY, np.float32)
"""Of a double that gives logits for every token; its caches are its own affair."""


def save_toy(
    path: Path,
    cache_type: int = TensorProto.UINT8,
    without: str = "",
    record: int | str = RECORD,
    last_only: bool = False,
    concatenates: bool = False,
) -> Path:
    """Write the toy decoder.

    Args:
        path: The .onnx file.
        cache_type: Element type of the cache.
        without: An input or output to leave out.
        record: What the graph says the last dimension of the cache is.
        last_only: Whether it gives the logits of the last token alone.
        concatenates: Whether new tokens go behind all there is, so that no buffer can be used.
    """
    cache_shape: list[str | int | None] = ["batch", KV_HEADS, "past", record]
    inputs: Values = {
        "input_ids": (TensorProto.INT64, ["batch", "new"]),
        "attention_mask": (TensorProto.INT64, ["batch", "total"]),
        "position_ids": (TensorProto.INT64, ["batch", "new"]),
        **{f"past_key_values.{name}": (cache_type, cache_shape) for name in CACHE_NAMES},
    }
    outputs: Values = {
        "logits": (TensorProto.FLOAT, ["batch", 1 if last_only else "new", VOCABULARY]),
        **{f"present.{name}": (cache_type, None) for name in CACHE_NAMES},
    }
    graph = helper.make_graph(
        _nodes(cache_type, without, last_only, concatenates),
        "toy",
        [helper.make_tensor_value_info(k, *v) for k, v in inputs.items() if k != without],
        [helper.make_tensor_value_info(k, *v) for k, v in outputs.items() if k != without],
        _initializers(),
    )
    opset = helper.make_opsetid("", 23)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def _nodes(
    cache_type: int, without: str, last_only: bool, concatenates: bool
) -> list[onnx.NodeProto]:
    return [
        # Every cache gets the new tokens, in all heads and bytes of their records.
        _node("Cast", "input_ids", "ids", to=cache_type),
        _node("Unsqueeze", "ids axes_1_3", "ids4"),
        _node("Expand", "ids4 record_shape", "records"),  # (B, G, S, R)
        # Behind the past tokens; whatever a buffer of fixed length holds after them stays.
        _node("Shape", "attention_mask", "total", start=1, end=2),
        _node("Shape", "input_ids", "new", start=1, end=2),
        _node("Sub", "total new", "past"),
        *(node for name in CACHE_NAMES for node in _write(name, concatenates)),
        # The last byte of the last head of the last layer's value is what is read.
        _node("Slice", f"present.{CACHE_NAMES[-1]} zero total axis_2", "in_use"),
        _node("Slice", "in_use minus_1 end axis_1", "head"),
        _node("Slice", "head minus_1 end axis_3", "byte"),
        _node("Cast", "byte", "byte_64", to=TensorProto.INT64),
        _node("Squeeze", "byte_64 axes_1_3", "tokens"),  # (B, P + S)
        _node("Mul", "tokens attention_mask", "seen"),
        _node("CumSum", "seen axis_1_scalar", "sums"),
        _node("Neg", "new", "minus_new"),
        _node("Slice", "sums minus_new end axis_1", "new_sums"),  # (B, S)
        _node("Add" if without != "position_ids" else "Max", _position(without), "next"),
        _node("Mod", "next vocabulary", "next_token"),
        _node("Slice", f"next_token {'minus_1' if last_only else 'zero'} end axis_1", "kept_token"),
        _node("OneHot", "kept_token vocabulary values", "logits", axis=-1),
    ]


def _initializers() -> list[TensorProto]:
    constants = {
        "axes_1_3": [1, 3],
        "record_shape": [1, KV_HEADS, 1, RECORD],
        "zero": [0],
        "minus_1": [-1],
        "end": [2**62],
        "axis_1": [1],
        "axis_2": [2],
        "axis_3": [3],
        "vocabulary": [VOCABULARY],
    }
    return [
        *(numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()),
        numpy_helper.from_array(np.array(1, np.int64), "axis_1_scalar"),
        numpy_helper.from_array(np.array([0.0, PEAK], np.float32), "values"),
    ]


def _node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **attributes)


def _write(name: str, concatenates: bool) -> list[onnx.NodeProto]:
    past = f"past_key_values.{name}"
    if concatenates:
        return [_node("Concat", f"{past} records", f"present.{name}", axis=2)]
    return [
        _node("Slice", f"{past} zero past axis_2", f"before.{name}"),
        _node("Slice", f"{past} total end axis_2", f"after.{name}"),
        _node("Concat", f"before.{name} records after.{name}", f"present.{name}", axis=2),
    ]


def _position(without: str) -> str:
    return "new_sums" if without == "position_ids" else "new_sums position_ids"


def expected_tokens(
    ids: NDArray[np.int64], mask: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The most likely next token after each of the tokens (B, S)."""
    mask = np.ones_like(ids) if mask is None else mask
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    expected: NDArray[np.int64] = ((ids * mask).cumsum(axis=1) + positions) % VOCABULARY
    return expected
