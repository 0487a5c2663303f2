"""Second moments of a model that is wholly in memory: what a pass layer by layer has to find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from resq_onnx.calibration.statistics import add_cache, complete, recording_layer
from resq_onnx.checkpoint.quiet import quiet_libraries
from resq_onnx.families import ModelLayout
from resq_onnx.projections.moments import SITES, Moments
from tests.tiny_models import KINDS

Progress = Callable[[int, int], None]

CACHED = ("key", "value")


def collect_moments(
    model: PreTrainedModel,
    layout: ModelLayout,
    sequences: NDArray[np.int64],
    progress: Progress | None = None,
    batch_size: int = 8,
) -> Moments:
    """Run a model on token sequences and accumulate its activations' second moments.

    The head is not run: no site needs the logits. Only one batch of activations is held.

    Args:
        model: A Hugging Face causal language model in evaluation mode.
        layout: Its sizes and module names.
        sequences: Token ids, (samples, tokens); may be empty.
        progress: Called after each batch.
        batch_size: Sequences run at a time.

    Raises:
        ResqError: An activation is infinite or NaN.
    """
    from transformers.cache_utils import DynamicCache

    moments = Moments.zeros(layout)
    decoder = cast(Any, model).get_decoder()  # the model without its head
    with torch.inference_mode(), _recording(model, layout, moments):
        for start in range(0, len(sequences), batch_size):
            batch = torch.from_numpy(sequences[start : start + batch_size]).to(model.device)
            # The model's default cache would drop tokens that leave a sliding window.
            cache: Any = DynamicCache()
            decoder(input_ids=batch, past_key_values=cache, use_cache=True)
            for layer in range(layout.num_layers):
                entry = cache.layers[layer]  # keys and values are (batch, kv_heads, tokens, d)
                sums = {role: torch.from_numpy(getattr(moments, role)[layer]) for role in CACHED}
                add_cache(entry.keys, entry.values, layout, layer, sums)
            moments.tokens += batch.numel()
            if progress is not None:
                progress(min(start + batch_size, len(sequences)), len(sequences))
    for site in SITES:
        complete(torch.from_numpy(getattr(moments, site)))
    return moments


def load_in(folder: Path, kind: str, dtype: torch.dtype) -> PreTrainedModel:
    """A model of `write_model` as transformers loads it in this type: RoPE's tables stay float32.

    Args:
        folder: The model's.
        kind: Its key in `KINDS`.
        dtype: Of weights and activations.
    """
    with quiet_libraries():
        model: PreTrainedModel = KINDS[kind][1].from_pretrained(folder, dtype=dtype).eval()
    return model


@contextmanager
def _recording(model: torch.nn.Module, layout: ModelLayout, moments: Moments) -> Iterator[None]:
    """Add the inputs of the norms, o_proj and down_proj to `moments` inside the context."""
    with ExitStack() as hooks:
        for layer in range(layout.num_layers):
            module = model.get_submodule(layout.family.layer.format(layer))
            sums = {site: torch.from_numpy(moments.site(layer, site)) for site in SITES}
            hooks.enter_context(recording_layer(module, layout, layer, sums))
        yield
