"""The original model in PyTorch, with the weights of one layer at a time in memory.

transformers makes the model without weights, on the meta device. Everything but the layers runs as
its own code has it: its forward is run once with the layers replaced by recorders, which keep what
the model hands to each layer (masks, RoPE's cosines and sines), so families need no code here. The
embedding and lm_head read the rows of their tables that they need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from resq_onnx.checkpoint.quiet import quiet_libraries
from resq_onnx.checkpoint.safetensors_store import StoredTensor
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import blaming
from resq_onnx.tracing.configuration import load_config
from resq_onnx.tracing.trace import computed_buffers, keep_frequencies

HEAD_BYTES: Final = 1 << 26
"""Bytes of lm_head's rows, in float32, that are in memory at a time."""

LOGITS_BYTES: Final = 1 << 26
"""Bytes of logits that are computed at a time."""


@dataclass(frozen=True)
class LayerCall:
    """What the model hands to one layer beside the hidden state, for one shape of tokens."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    cache: Any

    def run(self, layer: nn.Module, hidden: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Run a layer on hidden states (B, S, D) of that shape.

        Returns:
            Its output, (B, S, D), and the cache, in which this layer's keys and values are.
        """
        from transformers.cache_utils import DynamicCache

        # The model's default cache would drop tokens that leave a sliding window.
        fresh: Any = DynamicCache()
        arguments = [fresh if one is self.cache else one for one in self.arguments]
        keywords = {
            name: fresh if one is self.cache else one for name, one in self.keywords.items()
        }
        return _first(layer(hidden, *arguments, **keywords)), fresh


class LayeredModel:
    """A causal language model that is run layer by layer.

    Its weights are read as float32. A layer computes in another type if its caller moves it there,
    and gives it hidden states of that type.
    """

    def __init__(self, source: ModelSource, device: str = "cpu") -> None:
        """Make the model without weights.

        Raises:
            ResqError: transformers does not understand config.json.
        """
        self._source, self._layout, self.device = source, source.layout, torch.device(device)
        family, config = source.layout.family, load_config(source)
        damaged = "correct config.json, or download the model again"
        cannot = blaming(source.name, "PyTorch cannot load it", damaged)
        with quiet_libraries(), cannot, torch.device("meta"):
            self._model: Any = getattr(transformers, family.auto_class).from_config(
                config, dtype=torch.float32
            )
        self._model.eval()
        keep_frequencies(self._model, source.layout)
        self._buffers = computed_buffers(source)
        for name, buffer in self._buffers.items():
            self._put_buffer(name, buffer)
        self._decoder = cast(nn.Module, self._model.get_decoder())
        self._layers = [
            self._model.get_submodule(family.layer.format(i))
            for i in range(self._layout.num_layers)
        ]
        self._fill(self._model.get_submodule(family.final_norm), family.final_norm)
        self._calls: dict[tuple[int, int, torch.dtype], list[LayerCall]] = {}

    @contextmanager
    def layer(self, layer: int) -> Iterator[nn.Module]:
        """One layer with its weights, which are dropped when the context ends.

        Raises:
            ResqError: A weight cannot be read.
        """
        name, module = self._layout.family.layer.format(layer), self._layers[layer]
        self._fill(module, name)
        try:
            yield module
        finally:
            module.to("meta")

    def embed(
        self, token_ids: NDArray[np.int64], dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """The hidden state before the first layer of token ids (B, S): (B, S, D), of this type."""
        return self._begin(token_ids, dtype)[0]

    def calls(self, batch: int, tokens: int, dtype: torch.dtype = torch.float32) -> list[LayerCall]:
        """How the model calls each layer on (batch, tokens) token ids without padding."""
        shape = (batch, tokens, dtype)
        if shape not in self._calls:
            self._calls[shape] = self._begin(np.zeros((batch, tokens), np.int64), dtype)[1]
        return self._calls[shape]

    def logits(self, hidden: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Logits of hidden states behind the last layer (T, D), into `out`, (T, vocabulary)."""
        step = max(1, LOGITS_BYTES // (4 * out.shape[-1]))
        for start in range(0, len(hidden), step):
            rows = torch.from_numpy(np.array(hidden[None, start : start + step])).to(self.device)
            ids = np.zeros(rows.shape[:2], np.int64)
            with torch.inference_mode(), self._patched(ids, _last(rows, len(self._layers))):
                found = self._model(input_ids=torch.from_numpy(ids).to(self.device)).logits
            out[start : start + step] = found[0].float().cpu().numpy()

    def _begin(
        self, token_ids: NDArray[np.int64], dtype: torch.dtype
    ) -> tuple[torch.Tensor, list[LayerCall]]:
        """The hidden state before the first layer, and how each layer is called."""
        from transformers.cache_utils import DynamicCache

        cache: Any = DynamicCache()
        first: list[torch.Tensor] = []
        calls: list[LayerCall] = []

        def record(
            layer: int, hidden: torch.Tensor, *arguments: Any, **keywords: Any
        ) -> torch.Tensor:
            if layer == 0:
                first.append(hidden)
            calls.append(LayerCall(arguments, keywords, cache))
            return hidden

        ids = torch.from_numpy(token_ids).to(self.device)
        with torch.inference_mode(), self._patched(token_ids, record, dtype):
            self._decoder(input_ids=ids, past_key_values=cache, use_cache=True)
        return first[0], calls

    @contextmanager
    def _patched(
        self,
        token_ids: NDArray[np.int64],
        layer: Callable[..., torch.Tensor],
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[None]:
        """Let the layers be a function, and the tables be read from the files as needed."""
        family = self._layout.family
        with ExitStack() as patches:
            for index, module in enumerate(self._layers):
                patches.enter_context(_forward(module, _with_index(layer, index)))
            embedding = self._model.get_submodule(family.embedding)
            patches.enter_context(self._few_rows(embedding, token_ids, dtype))
            head = self._model.get_submodule(family.head)
            patches.enter_context(_forward(head, self._head))
            yield

    @contextmanager
    def _few_rows(
        self, embedding: Any, token_ids: NDArray[np.int64], dtype: torch.dtype
    ) -> Iterator[None]:
        """Give the embedding the rows of these tokens only, under new numbers."""
        used, places = np.unique(token_ids, return_inverse=True)
        rows = self._source.weights[f"{self._layout.family.embedding}.weight"].rows(used)
        whole, padding, usual = embedding.weight, embedding.padding_idx, embedding.forward
        embedding.weight = nn.Parameter(torch.from_numpy(rows).to(self.device, dtype), False)
        embedding.padding_idx = None
        numbers = torch.from_numpy(places.reshape(token_ids.shape)).to(self.device)
        try:
            with _forward(embedding, lambda _ids: usual(numbers)):
                yield
        finally:
            embedding.weight, embedding.padding_idx = whole, padding

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """lm_head on hidden states (..., D): (..., vocabulary), some rows of it at a time."""
        family = self._layout.family
        stored = self._source.weights[
            f"{family.embedding if self._layout.tied else family.head}.weight"
        ]
        count, width = stored.shape
        found = torch.empty((*hidden.shape[:-1], count), device=self.device)
        step = max(1, HEAD_BYTES // (4 * width))
        for start in range(0, count, step):
            some = slice(start, start + step)
            weight = torch.from_numpy(stored.rows(some)).to(self.device)
            found[..., some] = nn.functional.linear(hidden, weight)
        return found

    def _fill(self, module: nn.Module, name: str) -> None:
        """Read a module's weights from the files."""
        for key, _ in list(module.named_parameters()):
            stored: StoredTensor = self._source.weights[f"{name}.{key}"]
            owner, _, own = key.rpartition(".")
            weight = torch.from_numpy(stored.float32()).to(self.device)
            setattr(module.get_submodule(owner), own, nn.Parameter(weight, False))

    def _put_buffer(self, name: str, buffer: NDArray[np.float32]) -> None:
        owner, _, own = name.rpartition(".")
        tensor = torch.from_numpy(buffer).to(self.device)
        self._model.get_submodule(owner).register_buffer(own, tensor, persistent=False)


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else inside the context."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _with_index(function: Callable[..., torch.Tensor], index: int) -> Callable[..., torch.Tensor]:
    def call(hidden_states: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        return function(index, hidden_states, *arguments, **keywords)

    return call


def _last(hidden: torch.Tensor, layers: int) -> Callable[..., torch.Tensor]:
    """Layers of which the last one returns these hidden states, and the others their input."""

    def run(layer: int, states: torch.Tensor, *_arguments: Any, **_keywords: Any) -> torch.Tensor:
        return hidden if layer == layers - 1 else states

    return run


def _first(output: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]
