"""Check the folded float graph against PyTorch, and quantise it, one layer at a time.

Nothing larger than a layer is written or held: each layer is a small ONNX file for as long as it is
checked, and its matrices are quantised from the weights in that file.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from resq_onnx.calibration import layer_values
from resq_onnx.calibration.distributed import ALONE, Share
from resq_onnx.calibration.heap import give_back, often_given_back
from resq_onnx.calibration.layer_pass import WorkMoments
from resq_onnx.calibration.layered import LayeredModel
from resq_onnx.calibration.measured import ReferenceMeasurements
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.evaluation.distance import Distance
from resq_onnx.evaluation.faults import name_fault
from resq_onnx.evaluation.parity import FLOAT_TOLERANCE, check_float_parity
from resq_onnx.files import writing_to
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.graph.files import save_model
from resq_onnx.graph.modules import find_head, find_weight
from resq_onnx.graph.pieces import (
    HALVES,
    STREAM,
    embedding_piece,
    half_values,
    head_piece,
    layer_piece,
)
from resq_onnx.graph.tensors import FoldedTensor, dims, read_rows, row_blocks
from resq_onnx.passes.quantise_linears import sites_of
from resq_onnx.runtime.piece import Piece
from resq_onnx.weights.quantised import QuantisedMatrix

LEAST_CONTRIBUTION: Final = 0.01
"""An error is relative to what a layer adds to the residual stream, but at least to this share of
the stream: float32 rounds a stream of large elements by more than a thousandth of a small sum."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class LayerByLayer:
    """A folded float graph, and where its layers' matrices go.

    Attributes:
        graph: Lifted and folded.
        source: The model, which is read again where a layer is wrong.
        measured: Bases, moments, and PyTorch's outputs on a short text, of all half layers.
        work: Finished matrices are kept there.
        threads: Of ONNX Runtime.
        share: Which layers are this process's.
        device: Where PyTorch quantises.
        tuned: A graph as `graph`, of the tuned model; its matrices are quantised if it is there.
    """

    graph: ir.Model
    source: ModelSource
    measured: ReferenceMeasurements
    work: WorkFolder
    threads: int | None
    share: Share = ALONE
    device: str = "cpu"
    tuned: ir.Model | None = None

    def run(self, progress: Callable[[int, int], None]) -> Distance:
        """Check every layer, and quantise it.

        Args:
            progress: Called with the number of finished layers and of all.

        Returns:
            The distance of the logits from PyTorch's. Its relative error is the largest of all
            pieces.

        Raises:
            ResqError: A piece computes something else; names the layer and the value.
        """
        layers = range(self.measured.layout.num_layers)
        worst = self._check_embedding()
        self.finish_layers(progress)
        self.share.wait()
        for layer in layers:
            worst = max(worst, float(self.work.load(_part(layer))["error"][0]))
        distance = self._check_head()
        return dataclasses.replace(distance, relative_error=max(worst, distance.relative_error))

    @property
    def _stream(self) -> Array:
        """PyTorch's residual stream on the short text, (2 layers + 1, B, S, D)."""
        assert self.measured.short is not None, "PyTorch has run the text"
        return self.measured.short.stream

    def finish_layers(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Check and quantise this process's share of the layers, but for finished ones."""
        own = range(self.measured.layout.num_layers)[self.share.rank :: self.share.size]
        with often_given_back():
            for done, layer in enumerate(own, start=1):
                if not self.work.has(_part(layer)):
                    error = self._finish(layer)
                    self.work.save(_part(layer), {"error": np.array([error])})
                    self._release(layer)
                    give_back()
                if progress is not None:
                    progress(done, len(own))

    def _release(self, layer: int) -> None:
        """Give back the disk of a layer's moments, unless bases of all layers are made of them."""
        moments = self.measured.moments
        if isinstance(moments, WorkMoments) and self.measured.recipe.target_bits is None:
            moments.release(layer)

    def matrix(self, module: str) -> QuantisedMatrix:
        """The quantised matrix of a module."""
        return QuantisedMatrix(**self.work.load(module))

    def _finish(self, layer: int) -> float:
        """Check a layer and quantise its matrices; returns the error."""
        layout, recipe = self.measured.layout, self.measured.recipe
        with self._written(layer_piece(self.graph, layout, layer)) as path:
            places = slice(2 * layer, 2 * layer + 3)
            before, *expected = (self._turned(one) for one in self._stream[places])
            piece = Piece(path, self.threads)
            found = piece.run({STREAM: before}, *before.shape[:2])
            del piece
            error, start = 0.0, before
            for role, one, other in zip(HALVES, expected, found, strict=True):
                where = f"layer {layer}: the residual stream behind {layout.module(layer, role)}"
                fault = partial(self._fault, layer, role)
                error = max(error, self._check(where, start, one, other, fault))
                start = one
            if recipe.how.quantises and self.tuned is None:
                self._quantise(layer, path)
        if self.tuned is not None:
            with self._written(layer_piece(self.tuned, layout, layer)) as path:
                self._quantise(layer, path)
        return error

    def _fault(self, layer: int, out: str) -> str:
        """Which value of a wrong half is the first that differs: runs the layer once more."""
        layout, stream = self.measured.layout, self._stream[2 * layer]
        model = LayeredModel(self.source, self.device)
        expected = layer_values.half_values(model, layout, layer, out, stream)
        inner = half_values(self.graph, layout, layer, out)
        with self._written(layer_piece(self.graph, layout, layer, inner)) as path:
            feeds = {STREAM: self._turned(stream)}
            _, _, *found = Piece(path, self.threads).run(feeds, *stream.shape[:2])
        return name_fault(self.measured, layer, out, expected, found)

    def _quantise(self, layer: int, path: Path) -> None:
        measured = self.measured
        weights = ir.load(path).graph.initializers
        for site in sites_of(measured.layout, measured.projections, layer):
            if self.work.has(site.module):
                continue
            tensor = weights[f"{site.module}.weight"].const_value
            assert tensor is not None
            matrix = site.quantise(tensor.numpy(), measured.recipe, measured.moments, self.device)
            if isinstance(tensor, ir.ExternalTensor):
                tensor.release()  # nothing of the file stays mapped
            names = [field.name for field in dataclasses.fields(matrix)]
            self.work.save(site.module, {name: getattr(matrix, name) for name in names})

    def _check_embedding(self) -> float:
        """Check the embedding, with the rows of its table that the text has."""
        measured, text = self.measured, self.measured.token_ids
        used, numbers = np.unique(text, return_inverse=True)
        piece = embedding_piece(self.graph, measured.layout)
        table = find_weight(piece, measured.layout.family.embedding)
        _only_rows(table, used)
        with self._written(piece) as path:
            (found,) = Piece(path, self.threads).run(
                {"input_ids": numbers.reshape(text.shape)}, *text.shape
            )
        expected = self._turned(self._stream[0])
        return self._check("the embedding", np.zeros_like(expected), expected, found)

    def _check_head(self) -> Distance:
        """Check what follows the last layer, some rows of lm_head at a time."""
        measured, layout = self.measured, self.measured.layout
        shared = f"{layout.family.head}.weight" not in self.graph.graph.initializers
        stream = self._turned(self._stream[-1])
        found = np.empty_like(measured.logits)
        count = measured.logits.shape[-1]
        for block in row_blocks((count, layout.hidden_size)):
            piece = head_piece(self.graph, layout)
            _only_rows(find_head(piece, layout, shared=shared).weight, block)
            with self._written(piece) as path:
                (some,) = Piece(path, self.threads).run({STREAM: stream}, *stream.shape[:2])
            found[..., block] = some
        return check_float_parity(measured.logits, found, measured.token_ids, measured.reference)

    def _check(
        self,
        where: str,
        before: Array,
        expected: Array,
        found: Array,
        fault: Callable[[], str] | None = None,
    ) -> float:
        """The largest error of a token's stream; refuses one above the tolerance.

        Args:
            where: What is compared, for the message.
            before: The stream before it.
            expected: PyTorch's.
            found: The graph's.
            fault: Says where the error begins; called only if there is one.
        """
        length, added = (np.linalg.norm(one, axis=-1) for one in (expected, expected - before))
        error = np.linalg.norm(found - expected, axis=-1)
        worst = float((error / np.maximum(added, LEAST_CONTRIBUTION * length + 1e-30)).max())
        if not worst <= FLOAT_TOLERANCE:
            begins = "" if fault is None else f"{fault()}; "
            raise ResqError(
                f"parity: {where} of the rotated float graph differs from "
                f"{self.measured.reference}'s by {worst:.2e} of what is added there, more than "
                f"{FLOAT_TOLERANCE:g}; {begins}nothing was written; please "
                "report this model"
            )
        return worst

    def _turned(self, stream: Array) -> Array:
        """PyTorch's residual stream in the basis of the graph."""
        if self.measured.stream_basis is None:
            return np.asarray(stream, np.float32)
        return (stream.astype(np.float64) @ self.measured.stream_basis).astype(np.float32)

    @contextmanager
    def _written(self, piece: ir.Model) -> Iterator[Path]:
        """The file of a piece, for as long as it is needed."""
        with tempfile.TemporaryDirectory(dir=self.work.folder) as folder:
            path = Path(folder) / "piece.onnx"
            with writing_to(self.work.folder):
                save_model(piece, path)
            yield path


def _part(layer: int) -> str:
    return f"matrices-{layer:05}"


def _only_rows(weight: ir.Value, rows: NDArray[np.int64] | slice) -> None:
    """Leave some rows of a weight only."""
    whole = weight.const_value
    assert whole is not None
    count, width = dims(whole)
    shape = (len(range(count)[rows]) if isinstance(rows, slice) else len(rows), width)
    weight.const_value = FoldedTensor(lambda: read_rows(whole, rows), shape, weight.name)
    weight.shape = ir.Shape(shape)
