"""OpenVINO: a portable file, read and run by it.

OpenVINO (tried: 2026.4) reads standard operators alone, which `--format qdq` writes. It keeps the
weights in 4 and 8 bits and multiplies them with float32 activations. Three of its settings matter
to a model whose activations are rounded to 16 steps, and `compiled` makes them:

1. Its precision is float32. On CPUs with bfloat16 units it would otherwise compute in that.
2. It quantises no activations by itself: they are already.
3. A division stays one. It would otherwise multiply with the reciprocal, which differs in the last
   bit, and that decides where a number lies between two steps: often in the first layer, which
   reads whole multiples of a scale. Such results are as good, but not those of other runtimes.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError, lines_of
from resq_onnx.files import check_is_file
from resq_onnx.graph.data_file import check_data
from resq_onnx.graph.names import cache_names
from resq_onnx.runtime.decoder import check_rewind, check_room
from resq_onnx.runtime.signature import TYPES

if TYPE_CHECKING:
    import openvino

PACKAGE: Final = "openvino>=2026.4"

KEEPS_DIVISION: Final = "nonconvertable_divide_0"
"""OpenVINO's mark of a division that is to stay one."""

ELEMENTS: Final = {"u8": "tensor(uint8)", "f32": "tensor(float)", "i64": "tensor(int64)"}
"""Element types, as OpenVINO and as ONNX Runtime write them."""


def read(path: str | Path, *, exact_division: bool = True) -> openvino.Model:
    """Read a portable file.

    Args:
        path: The .onnx file.
        exact_division: Whether divisions stay divisions.

    Raises:
        ResqError: OpenVINO is not installed, or cannot read the file, or its data is another's.
    """
    ov = _openvino()
    path = Path(path)
    check_is_file(path)
    check_data(path)
    try:
        model: openvino.Model = ov.Core().read_model(path)
    except Exception as error:  # RuntimeErrors of many lines, of which the last say why
        raise ResqError(
            f"{path}: OpenVINO {ov.__version__} cannot read the model: "
            f"{lines_of(error)[-1]}; it reads files that were exported with --format qdq"
        ) from None
    if exact_division:
        for node in model.get_ops():
            # The mark on a reciprocal, 1 / x, makes OpenVINO 2026.4 compute another number.
            if node.get_type_name() == "Divide" and not _is_constant(node.input_value(0)):
                node.get_rt_info()[KEEPS_DIVISION] = True
    return model


def compiled(model: openvino.Model, threads: int | None = None) -> openvino.CompiledModel:
    """Compile a model for the CPU, to compute in float32."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = str(threads)
    return _openvino().Core().compile_model(model, "CPU", settings)


@dataclass(frozen=True)
class Entry:
    """An input or output of a graph, as ONNX Runtime describes one."""

    name: str
    type: str
    shape: list[int | None]


class OpenVinoSession:
    """As much of an onnxruntime.InferenceSession as `runtime.Decoder` uses, run by OpenVINO.

    With it the decoder, and so the evaluation, run in OpenVINO. The cache comes and goes with
    every call; `StatefulDecoder` leaves it where it is.
    """

    def __init__(
        self, path: str | Path, threads: int | None = None, *, exact_division: bool = True
    ) -> None:
        """Read and compile a portable file.

        Raises:
            ResqError: As for `read`.
        """
        model = read(path, exact_division=exact_division)
        self._inputs, self._outputs = _entries(model.inputs), _entries(model.outputs)
        self._request = compiled(model, threads).create_infer_request()

    def get_inputs(self) -> list[Entry]:
        """The graph's inputs."""
        return self._inputs

    def get_outputs(self) -> list[Entry]:
        """The graph's outputs."""
        return self._outputs

    def run(self, names: list[str], feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names."""
        found = self._request.infer(feeds, share_inputs=True)
        return [found[name] for name in names]


class StatefulDecoder:
    """Runs a portable file on one text, and keeps its cache inside OpenVINO.

    It is used as a `BufferedDecoder` is: `runtime.generate` takes it too.

    Attributes:
        max_length: Tokens that may come; nothing is allocated for them beforehand.
        length: Tokens so far.
    """

    def __init__(
        self,
        path: str | Path,
        max_length: int,
        threads: int | None = None,
        *,
        exact_division: bool = True,
    ) -> None:
        """Read a portable file, turn its cache into a state, and compile it.

        Raises:
            ResqError: As for `read`.
        """
        model = read(path, exact_division=exact_division)
        from openvino.passes import MakeStateful, Manager

        inputs = {entry.name: entry for entry in _entries(model.inputs)}
        pairs = dict(zip(*cache_names(sum(n.endswith(".key") for n in inputs)), strict=True))
        # The name OpenVINO gives to a state is that of its input and its output.
        self._caches = {past + present: inputs[past] for past, present in pairs.items()}
        self._takes_positions = "position_ids" in inputs
        manager = Manager()
        manager.register_pass(MakeStateful(pairs))
        manager.run_passes(model)
        self._request = compiled(model, threads).create_infer_request()
        self.max_length = max_length
        self.length = 0
        self.reset()

    def reset(self) -> None:
        """Forget the text."""
        self.rewind(0)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        Raises:
            ValueError: There are not as many.
        """
        check_rewind(length, self.length)
        for state in self._request.query_state():
            entry = self._caches[state.name]
            kept = np.zeros(
                (1, entry.shape[1] or 0, length, entry.shape[3] or 0), TYPES[entry.type]
            )
            if length:  # a state that nothing has run on yet has no text at all
                kept[:] = state.state.data[:, :, :length]
            state.state = _openvino().Tensor(kept)
        self.length = length

    def run(self, input_ids: NDArray[np.int64]) -> NDArray[Any]:
        """Run the model on the next tokens, (1, S), S at least 1.

        Returns:
            The logits after the last token, (1, vocabulary).

        Raises:
            ResqError: There are more tokens than shall come.
        """
        total = self.length + input_ids.shape[1]
        check_room(total, self.max_length)
        feeds = {"input_ids": input_ids, "attention_mask": np.ones((1, total), np.int64)}
        if self._takes_positions:
            feeds["position_ids"] = np.arange(self.length, total)[None]
        logits: NDArray[Any] = self._request.infer(feeds, share_inputs=True)["logits"][:, -1]
        self.length = total
        return logits


def _openvino() -> Any:
    """OpenVINO, without its telemetry if it is not imported yet: it tells of every import."""
    telemetry = "openvino_telemetry"
    modules: dict[str, Any] = sys.modules
    hidden = telemetry not in modules
    if hidden:
        modules[telemetry] = None  # as if it was not installed: OpenVINO then takes an empty one
    try:
        import openvino
    except ImportError:
        raise ResqError(
            f'to run a model in OpenVINO it must be installed: pip install "{PACKAGE}"'
        ) from None
    finally:
        if hidden:
            del modules[telemetry]
    return openvino


def _is_constant(output: Any) -> bool:
    return bool(output.get_node().get_type_name() == "Constant")


def _entries(ports: list[Any]) -> list[Entry]:
    """Inputs or outputs as ONNX Runtime describes them; None for a size that is not fixed."""
    return [
        Entry(
            port.any_name,
            ELEMENTS[port.element_type.get_type_name()],
            [None if size.is_dynamic else size.get_length() for size in port.partial_shape],
        )
        for port in ports
    ]
