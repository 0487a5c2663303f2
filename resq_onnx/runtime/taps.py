"""Read the residual stream of a running model through extra graph outputs (taps).

No file is written: ONNX Runtime receives the graph with the extra outputs from memory, and reads
the weights from their original file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.decoder import Decoder, DecoderState, check_logits
from resq_onnx.runtime.library import kernels_run
from resq_onnx.runtime.protos import read_proto
from resq_onnx.runtime.providers import CPU
from resq_onnx.runtime.residual_stream import SOURCE, residual_stream
from resq_onnx.runtime.session import create_session, running

if TYPE_CHECKING:
    import onnxruntime

TAP: Final = "layer_outputs."
"""Prefix of the outputs of a tapped graph; a number follows, 0 for the embedding, then in order."""


def tapped_session(
    path: str | Path,
    threads: int | None = None,
    *,
    provider: str = CPU,
    kernels: bool = True,
    halves: bool = False,
) -> onnxruntime.InferenceSession:
    """Open an exported model with its residual stream as extra outputs.

    Its other outputs are unchanged, so a `Decoder` can run it as well.

    Args:
        path: The .onnx file, of any method and format.
        threads: As for `create_session`.
        provider: As for `create_session`.
        kernels: As for `create_session`.
        halves: As for `residual_stream`.

    Raises:
        ResqError: The file cannot be read or run, or is not a decoder that resq-onnx wrote.
    """
    model = read_proto(path)
    for place, name in enumerate(_stream(model, path, halves)):
        _give(model.graph, name, f"{TAP}{place}")
    graph = model.SerializeToString()
    return create_session(path, threads, provider=provider, kernels=kernels, graph=graph)


def layer_outputs(
    model: str | Path | onnxruntime.InferenceSession, token_ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The residual stream of a text in one pass: the embedding, and every layer's output.

    Args:
        model: An .onnx file, or a session of `tapped_session` to run several texts in.
        token_ids: (B, S).

    Returns:
        (layers + 1, B, S, D), in the basis of the file, which some methods, such as `resq`, rotate.

    Raises:
        ResqError: As `tapped_session`, or the session has no taps.
    """
    session = tapped_session(model) if isinstance(model, str | Path) else model
    return TappedDecoder(session).run(token_ids)[1]


class TappedDecoder:
    """A `Decoder` that also returns the residual stream."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        """Take a session of `tapped_session`.

        Raises:
            ResqError: The graph is not a decoder, or has no taps.
        """
        self.decoder = Decoder(session)
        names = [entry.name for entry in session.get_outputs()]
        self._taps = [name for name in names if name.startswith(TAP)]
        if not self._taps:
            raise ResqError("the session has no taps; open the model with tapped_session")

    def run(
        self, token_ids: NDArray[np.int64], state: DecoderState | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], DecoderState]:
        """Run the model on new tokens (B, S), none of them padding.

        Returns:
            The logits and the new state as from `Decoder.run`, and between them the residual
            stream of the new tokens, (layers + 1, B, S, D).
        """
        feeds = self.decoder.feeds(token_ids, state)
        names = ["logits", *self._taps, *self.decoder.signature.present]
        with running():
            logits, *rest = self.decoder.session.run(names, feeds)
        check_logits(logits, token_ids)
        taps, caches = rest[: len(self._taps)], rest[len(self._taps) :]
        stream = np.stack([tap.reshape(*token_ids.shape, -1) for tap in taps])
        return logits, stream, DecoderState(tuple(caches), feeds["attention_mask"])


class Embedder:
    """The first part of an exported model: from token ids to the residual stream before layer 0.

    It is cheap to open and run, because it has neither the layers nor their weights.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        *,
        provider: str = CPU,
        kernels: bool = True,
    ) -> None:
        """Open the model; arguments and errors are those of `tapped_session`."""
        model = read_proto(path)
        graph, embedding = model.graph, _stream(model, path)[0]
        nodes = _nodes_behind(graph, embedding)
        read = {name for node in nodes for name in node.input}
        kept = {
            "input": [value for value in graph.input if value.name in read],
            "initializer": [tensor for tensor in graph.initializer if tensor.name in read],
            "output": [],
            "node": nodes,
        }
        for field, entries in kept.items():
            graph.ClearField(field)
            getattr(graph, field).extend(entries)
        _give(graph, embedding, f"{TAP}0")
        self._session: Any = create_session(
            path, threads, provider=provider, kernels=kernels, graph=model.SerializeToString()
        )

    def run(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embed token ids (B, S): (B, S, D)."""
        with running():
            (found,) = self._session.run(None, {SOURCE: token_ids})
        return np.asarray(found).reshape(*token_ids.shape, -1)


def _give(graph: onnx.GraphProto, value: str, output: str) -> None:
    """Make a value an output, converted to float32: NumPy has no bfloat16."""
    to = onnx.TensorProto.FLOAT
    graph.node.append(onnx.helper.make_node("Cast", [value], [output], to=to))
    graph.output.append(onnx.ValueInfoProto(name=output))


def _stream(model: onnx.ModelProto, path: str | Path, halves: bool = False) -> list[str]:
    try:
        return residual_stream(model.graph, halves=halves)
    except ResqError as error:
        raise ResqError(f"{path}: {error}") from None


def _nodes_behind(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """The nodes that compute a value, in order."""
    wanted, found = {name}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def open_tapped(path: Path, dtype: str = "float32", threads: int | None = None) -> TappedDecoder:
    """Open a written model whose activations are of this type, tapped after every half layer."""
    session = tapped_session(path, threads, kernels=kernels_run(dtype), halves=True)
    return TappedDecoder(session)
