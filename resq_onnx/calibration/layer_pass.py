"""One pass of several texts through a model, layer by layer: moments, and the float outputs.

Of the calibration text the second moments of each layer are kept; of two short texts the float
logits and the residual stream, with which the exported model is compared. All of it goes to a work
folder, layer by layer: a pass that was stopped goes on behind the last finished layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resq_onnx.calibration.distributed import ALONE, Share, add_up
from resq_onnx.calibration.heap import give_back, often_given_back
from resq_onnx.calibration.layered import LayerCall, LayeredModel
from resq_onnx.calibration.rows import (
    RowSample,
    Samples,
    bytes_of_token,
    names_of_rows,
    samples_of,
    tokens_of_sample,
)
from resq_onnx.calibration.statistics import add_cache, complete, recording_layer
from resq_onnx.families import ModelLayout
from resq_onnx.files.work_folder import WorkFolder, flush
from resq_onnx.projections.moments import check_site, layer_shapes
from resq_onnx.projections.sums import BasisSums
from resq_onnx.projections.triangles import pack, triangle_size, unpack
from resq_onnx.recipe import ComputeDtype
from resq_onnx.runtime.outputs import ModelOutputs

BATCH: Final = 8
"""Calibration sequences that are run at a time, if memory allows it."""

SUMS: Final = "sums"
LOGITS: Final = "logits"
DIAGONAL: Final = "down_diagonal"


@dataclass(frozen=True)
class Texts:
    """Token ids, each (sequences, tokens).

    Attributes:
        calibration: Whose second moments are measured; may be empty.
        parity: A short text, for the logits of the float graph and of cached decoding.
        quality: A longer one, for the cost of quantisation.
    """

    calibration: NDArray[np.int64]
    parity: NDArray[np.int64]
    quality: NDArray[np.int64]


class WorkMoments:
    """The second moments in a work folder: `projections.moments.SecondMoments`."""

    def __init__(self, work: WorkFolder, tokens: int) -> None:
        """Take the folder of a finished pass, and the tokens of its calibration text."""
        self._work, self.tokens = work, tokens

    def site(self, layer: int, site: str) -> NDArray[np.float32]:
        """The sum of one layer at one site, read now."""
        return unpack(self._work.load(_part(layer), site)[site])

    def release(self, layer: int) -> None:
        """Give back the room of a layer that needs its sums no more; its part stays finished."""
        self._work.save(_part(layer))


class LayerPass:
    """Runs the texts through a model; what is finished stays in the work folder."""

    def __init__(
        self,
        layout: ModelLayout,
        work: WorkFolder,
        texts: Texts,
        share: Share = ALONE,
        batch: int = BATCH,
        dtype: ComputeDtype = "float32",
        keeps_rows: bool = False,
    ) -> None:
        """Describe a pass.

        Args:
            layout: Of the model.
            work: Where its parts are.
            texts: The same in every process.
            share: Which calibration sequences are this process's.
            batch: Calibration sequences that are run at a time.
            dtype: In which the layers run on these; on the short texts they run in float32.
            keeps_rows: Whether a sample of what is rounded is kept of each layer, too: of the
                first process's sequences.
        """
        self._layout, self._work, self._texts = layout, work, texts
        self._share, self._batch = share, batch
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._own = self._share.of(texts.calibration)
        self._keeps_rows = keeps_rows and share.rank == 0 and self._own.size > 0
        self.tokens = texts.calibration.size

    @property
    def finished(self) -> int:
        """Layers whose part is finished."""
        done = (not self._work.has(_part(i)) for i in range(self._layout.num_layers))
        return next((i for i, missing in enumerate(done) if missing), self._layout.num_layers)

    @property
    def bytes_to_write(self) -> int:
        """The most that the layers which are not finished will take in the work folder."""
        shapes = layer_shapes(self._layout).values()
        sums = sum(4 * math.prod(shape[:-2]) * triangle_size(shape[-1]) for shape in shapes)
        hidden = 2 * 4 * self._own.size * self._layout.hidden_size
        if self._keeps_rows:
            sums += bytes_of_token(self._layout) * tokens_of_sample(self._layout, self._own.size)
        left = self._layout.num_layers - self.finished
        return (left * sums if self.tokens else 0) + hidden

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to run."""
        return self.finished == self._layout.num_layers and self._work.has(LOGITS)

    def run(self, model: LayeredModel, progress: Callable[[int, int], None]) -> None:
        """Run the layers that are not finished, and lm_head.

        Args:
            model: The model.
            progress: Called with the number of finished layers and of all.

        Raises:
            ResqError: An activation is infinite or NaN, or a part cannot be written.
        """
        layers, first = self._layout.num_layers, self.finished
        self._share.wait()  # so that no process sees a part of this run
        if first == 0:
            self._begin(model)
        with often_given_back():
            for layer in range(first, layers):
                with model.layer(layer) as module, torch.inference_mode():
                    self._run_layer(model, module, layer)
                give_back()
                progress(layer + 1, layers)
            if self._share.rank == 0:
                self._finish(model)

    def outputs(self) -> tuple[ModelOutputs, ModelOutputs]:
        """The float outputs on the parity text and on the quality text, mapped to memory."""
        parity, quality = self._texts.parity, self._texts.quality
        return self._outputs("parity", parity), self._outputs("quality", quality)

    def _outputs(self, name: str, text: NDArray[np.int64]) -> ModelOutputs:
        return ModelOutputs(
            self._logits(name, text).reshape(*text.shape, -1),
            self._stream(name, text).reshape(-1, *text.shape, self._layout.hidden_size),
        )

    def moments(self) -> WorkMoments | None:
        """The second moments; None without a calibration text."""
        return WorkMoments(self._work, self.tokens) if self.tokens else None

    def sums(self) -> BasisSums | None:
        """The sums of which the bases are made; None without a calibration text."""
        if not self.tokens:
            return None
        if self._work.has(SUMS):
            return BasisSums(**self._work.load(SUMS), tokens=self.tokens)
        sums = BasisSums.zeros(self._layout, self.tokens)
        for layer in range(self._layout.num_layers):
            for site in ("hidden_attention", "hidden_mlp", "value", "key"):
                packed = self._work.load(_part(layer), site)[site]
                sums.add(self._layout, layer, site, unpack(packed))
            diagonal = self._work.load(_part(layer), DIAGONAL)[DIAGONAL]
            sums.add(self._layout, layer, "down", diagonal)
        self._work.save(
            SUMS,
            {name: getattr(sums, name) for name in ("hidden", "value", "key", "down")},
        )
        return sums

    def rows(self) -> Samples:
        """The rows that were kept of all layers."""
        names = names_of_rows()
        return samples_of(
            self._layout, self._own.size, lambda layer: self._work.load(_part(layer), *names)
        )

    def _begin(self, model: LayeredModel) -> None:
        """The hidden states before the first layer."""
        hidden = self._hidden(0)
        for start in range(0, len(self._own), self._batch):
            some = slice(start, start + self._batch)
            hidden[some] = model.embed(self._own[some], self._dtype).float().cpu().numpy()
        flush(hidden)
        for name, text in self._short():
            stream = self._stream(name, text)
            stream[0] = model.embed(text).flatten(0, 1).cpu().numpy()
            flush(stream)

    def _run_layer(self, model: LayeredModel, module: nn.Module, layer: int) -> None:
        """Run one layer, and finish its part; its weights are then those of the last text."""
        for name, text in self._short():
            self._follow(model, module, layer, name, text)
        sample = RowSample(self._layout, layer, self._own.size) if self._keeps_rows else None
        sums = self._measure(model, module.to(self._dtype), layer, sample) if self.tokens else None
        if self._share.rank == 0:
            rows = {} if sample is None else sample.arrays()
            packed = {} if sums is None else self._packed(sums, layer)
            self._work.save(_part(layer), packed | rows)
        self._share.wait()
        self._work.discard(self._place(layer))

    def _measure(
        self, model: LayeredModel, module: nn.Module, layer: int, sample: RowSample | None
    ) -> dict[str, torch.Tensor]:
        """The second moments of one layer, of all processes' sequences together."""
        sums = {
            site: torch.zeros(shape, dtype=torch.float64, device=model.device)
            for site, shape in layer_shapes(self._layout).items()
        }
        before, behind = self._hidden(layer), self._hidden(layer + 1)
        take = None if sample is None else sample.take
        with recording_layer(module, self._layout, layer, sums, take):
            for start in range(0, len(self._own), self._batch):
                some = slice(start, start + self._batch)
                hidden = torch.from_numpy(np.array(before[some])).to(model.device, self._dtype)
                hidden, cache = _call(model, hidden, layer).run(module, hidden)
                entry = cache.layers[layer]
                add_cache(entry.keys, entry.values, self._layout, layer, sums, take)
                behind[some] = hidden.float().cpu().numpy()
        flush(behind)
        if self._share.size > 1:
            add_up(sums)
        return sums

    def _follow(
        self, model: LayeredModel, module: nn.Module, layer: int, name: str, text: NDArray[Any]
    ) -> None:
        """Take a short text through one layer, and keep the residual stream."""
        stream, place = self._stream(name, text), 2 * layer
        norm = module.get_submodule(str(self._layout.family.mlp_norm))
        middle: list[torch.Tensor] = []
        handle = norm.register_forward_pre_hook(lambda _module, inputs: middle.append(inputs[0]))
        try:
            hidden = torch.from_numpy(np.array(stream[place])).to(model.device)
            hidden = hidden.reshape(*text.shape, -1)
            hidden, _ = _call(model, hidden, layer).run(module, hidden)
        finally:
            handle.remove()
        stream[place + 1] = middle[0].flatten(0, 1).cpu().numpy()
        stream[place + 2] = hidden.flatten(0, 1).cpu().numpy()
        flush(stream)

    def _packed(self, sums: dict[str, torch.Tensor], layer: int) -> dict[str, NDArray[Any]]:
        """The sums as they are stored; they are taken out of `sums` one by one."""
        diagonal = sums["down"].diagonal().cpu().numpy().astype(np.float32)
        packed: dict[str, NDArray[Any]] = {DIAGONAL: diagonal}
        for site in list(sums):
            total = sums.pop(site)
            complete(total)
            moment = total.cpu().numpy()
            check_site(self._layout, moment, layer, site)
            packed[site] = pack(moment)
        return packed

    def _finish(self, model: LayeredModel) -> None:
        """The logits of the short texts."""
        if self._work.has(LOGITS):
            return
        for name, text in self._short():
            logits = self._logits(name, text)
            model.logits(self._stream(name, text)[-1], logits)
            flush(logits)
            give_back()
        self._work.save(LOGITS)
        self._work.discard(self._place(self._layout.num_layers))

    def _short(self) -> list[tuple[str, NDArray[np.int64]]]:
        """The texts whose outputs are kept, in the process that keeps them."""
        named = [("parity", self._texts.parity), ("quality", self._texts.quality)]
        return [one for one in named if one[1].size] if self._share.rank == 0 else []

    def _stream(self, name: str, text: NDArray[np.int64]) -> NDArray[np.float32]:
        places = 2 * self._layout.num_layers + 1
        return self._work.array(f"{name}-stream", (places, text.size, self._layout.hidden_size))

    def _logits(self, name: str, text: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._work.array(f"{name}-logits", (text.size, self._layout.vocab_size))

    def _hidden(self, layer: int) -> NDArray[np.float32]:
        """The hidden states of this process's calibration sequences before a layer."""
        shape = (*self._own.shape, self._layout.hidden_size)
        return self._work.array(self._place(layer), shape)

    def _place(self, layer: int) -> str:
        return f"hidden-{layer:05}-{self._share.rank}"


def _part(layer: int) -> str:
    return f"layer-{layer:05}"


def _call(model: LayeredModel, hidden: torch.Tensor, layer: int) -> LayerCall:
    return model.calls(hidden.shape[0], hidden.shape[1], hidden.dtype)[layer]
