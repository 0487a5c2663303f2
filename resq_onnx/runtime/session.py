"""ONNX Runtime sessions, and a decoder with a cache on top of one.

A decoder graph has these inputs and outputs (B sequences, S new tokens, P cached ones):

    input_ids int64 (B, S)                      logits float32 (B, S, vocabulary)
    attention_mask int64 (B, P + S)             present.{i}.key, present.{i}.value
    position_ids int64 (B, S)                       as the past, (B, G, P + S, R)
    past_key_values.{i}.key, past_key_values.{i}.value
        uint8 (B, G, P, R) packed records, or float (B, G, P, d)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx import custom_ops
from resq_onnx.errors import ResqError

if TYPE_CHECKING:
    import onnxruntime

CACHE_TYPES: Final[dict[str, type[np.generic]]] = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}
"""Element types a cache may have, as ONNX Runtime writes them."""


def create_session(
    path: str | Path,
    threads: int | None = None,
    kernels: bool = False,
    optimise: bool = True,
    fold_weights: bool = True,
) -> onnxruntime.InferenceSession:
    """Open an exported model in ONNX Runtime.

    Args:
        path: The .onnx file.
        threads: Threads of one operator; None leaves it to ONNX Runtime (one per core).
        kernels: Whether the compiled ai.resq operators run, instead of the functions in the
            file.
        optimise: Whether ONNX Runtime may rewrite the graph.
        fold_weights: Whether ONNX Runtime dequantises the weights once, when it opens the
            file, instead of in each run. A token then takes a third to a half of the time, but
            a weight four bytes (SmolLM2-135M: 900 MB instead of 420). It concerns the weights
            that functions read, not those of kernels.

    Raises:
        ResqError: onnxruntime is not installed, a file is missing or broken, or `kernels` were
            not built.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ResqError(
            'to run a model onnxruntime must be installed: pip install "resq-onnx[cpu]"'
        ) from None
    path = Path(path)
    if not path.is_file():
        raise ResqError(f"{path}: no such file; give the .onnx file that resq-onnx export wrote")
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors arrive as exceptions
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    if fold_weights:
        # ONNX Runtime keeps a DequantizeLinear for its QDQ fusions, which no per-token scale
        # ever matches, unless it is told that there are none; then it is a constant like others.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if kernels:
        custom_ops.register(options)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but this
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResqError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot open the model: {reason}; "
            f"if the file or its data is damaged, export it again"
        ) from None


@dataclass(frozen=True)
class DecoderState:
    """What a decoder knows of the tokens so far.

    Attributes:
        caches: Key and value of layer 0, of layer 1, ...; each (B, G, P, R).
        attention_mask: 1 for a token, 0 for padding, (B, P).
    """

    caches: tuple[NDArray[Any], ...]
    attention_mask: NDArray[np.int64]

    @property
    def length(self) -> int:
        """Number of cached tokens, padding included."""
        return int(self.attention_mask.shape[1])


class Decoder:
    """Runs a decoder graph on new tokens and keeps track of cache, mask and positions.

    Attributes:
        session: The ONNX Runtime session.
        num_layers: Number of layers, by the graph's cache inputs.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        """Read the graph's inputs.

        Raises:
            ResqError: The graph is not a decoder as described at the top of this file.
        """
        inputs = {entry.name: entry for entry in session.get_inputs()}
        self.session = session
        self.num_layers = sum(name.endswith(".key") for name in inputs)
        self._past_names = self._names("past_key_values")
        self._output_names = ["logits", *self._names("present")]
        self._takes_positions = "position_ids" in inputs
        outputs = {entry.name for entry in session.get_outputs()}
        expected = ["input_ids", "attention_mask", *self._past_names]
        missing = [name for name in expected if name not in inputs]
        missing += [name for name in self._output_names if name not in outputs]
        if missing or not self.num_layers:
            raise ResqError(
                f"the model is not a decoder with a cache: it has no "
                f"{', '.join(missing) or 'past_key_values.0.key'}; give a file that "
                f"resq-onnx export wrote"
            )
        self._empty = [_cache_form(inputs[name]) for name in self._past_names]

    def _names(self, prefix: str) -> list[str]:
        return [f"{prefix}.{i}.{part}" for i in range(self.num_layers) for part in ("key", "value")]

    def run(
        self,
        input_ids: NDArray[np.int64],
        state: DecoderState | None = None,
        attention_mask: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float32], DecoderState]:
        """Run the model on new tokens.

        Args:
            input_ids: (B, S), S at least 1.
            state: What the run before returned; None at the beginning.
            attention_mask: (B, P + S), 0 for padding; None if no new token is padding.

        Returns:
            The logits, (B, S, vocabulary), and the state with the new tokens in it.

        Raises:
            ValueError: The mask does not have one column for each token.
        """
        batch, new = input_ids.shape
        if state is None:
            state = self._initial_state(batch)
        if attention_mask is None:
            seen = np.ones((batch, new), np.int64)
            attention_mask = np.concatenate([state.attention_mask, seen], axis=1)
        expected = (batch, state.length + new)
        if attention_mask.shape != expected:
            raise ValueError(f"attention_mask is {attention_mask.shape}, it must be {expected}")
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.asarray(input_ids, np.int64),
            "attention_mask": np.asarray(attention_mask, np.int64),
            **dict(zip(self._past_names, state.caches, strict=True)),
        }
        if self._takes_positions:
            # Padding has no position of its own; any valid one does, for nothing looks at it.
            feeds["position_ids"] = np.maximum(attention_mask.cumsum(axis=1) - 1, 0)[:, -new:]
        logits, *caches = self.session.run(self._output_names, feeds)
        return logits, DecoderState(tuple(caches), feeds["attention_mask"])

    def _initial_state(self, batch: int) -> DecoderState:
        caches = (np.zeros((batch, heads, 0, size), dtype) for heads, size, dtype in self._empty)
        return DecoderState(tuple(caches), np.zeros((batch, 0), np.int64))


def _cache_form(entry: Any) -> tuple[int, int, type[np.generic]]:
    """Kv heads, last dimension and element type of one cache input."""
    shape = entry.shape
    if len(shape) != 4 or not isinstance(shape[1], int) or not isinstance(shape[3], int):
        raise ResqError(
            f"input {entry.name} has shape {shape}; a cache must have four dimensions, and the "
            f"second (kv heads) and fourth (bytes or values of a record) must be fixed numbers"
        )
    if entry.type not in CACHE_TYPES:
        raise ResqError(
            f"input {entry.name} is a {entry.type}; a cache must be one of {', '.join(CACHE_TYPES)}"
        )
    return shape[1], shape[3], CACHE_TYPES[entry.type]
