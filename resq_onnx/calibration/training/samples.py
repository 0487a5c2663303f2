"""Rows of what is rounded in each basis, from a run of the float model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.calibration.training.loss import last_hidden
from resq_onnx.calibration.training.simulation import read_by, recorded_attention
from resq_onnx.families import ModelLayout

BYTES: Final = 600_000_000
"""The most that the rows take: 8,192 tokens at every site of SmolLM2-135M."""


@dataclass(frozen=True)
class Samples:
    """Rows in 16 bits, one for each token; layers are alike in their number.

    Attributes:
        hidden: The inputs of q/k/v and of gate/up of all layers, as U_A is applied to them,
            (2 · layers · tokens, D).
        value: (layers, kv heads, tokens, d).
        key: After RoPE, (layers, kv heads, tokens, d).
    """

    hidden: torch.Tensor
    value: torch.Tensor
    key: torch.Tensor


def sequences_for(layout: ModelLayout, length: int) -> int:
    """How many sequences of so many tokens `BYTES` have room for; at least one."""
    heads = layout.num_kv_heads * layout.head_dim
    a_token = 2 * layout.num_layers * (2 * layout.hidden_size + 2 * heads)
    return max(1, BYTES // (a_token * length))


@torch.inference_mode()
def collect(
    model: Any, layout: ModelLayout, sequences: NDArray[np.int64], device: str = "cpu"
) -> Samples:
    """Run the float model and keep what its layers read.

    Args:
        model: A Hugging Face causal language model.
        layout: Its sizes and module names.
        sequences: Token ids, (samples, tokens).
        device: Where it is.
    """
    kept: dict[tuple[str, int], list[torch.Tensor]] = {}

    def keep(site: str, layer: int, rows: torch.Tensor) -> None:
        kept.setdefault((site, layer), []).append(rows.bfloat16())

    with _recording(model, layout, keep):
        for row in sequences:
            last_hidden(model, torch.from_numpy(row[None]).to(device))
    layers = range(layout.num_layers)

    def joined(site: str) -> list[torch.Tensor]:
        return [torch.cat(kept.pop((site, layer)), dim=-2) for layer in layers]

    hidden = torch.cat(joined("attention_norm") + joined("mlp_norm"))
    return Samples(hidden, torch.stack(joined("value")), torch.stack(joined("key")))


@contextmanager
def _recording(model: Any, layout: ModelLayout, keep: Any) -> Iterator[None]:
    """Pass the inputs of every norm's readers (tokens, D), keys and values (G, tokens, d) on."""

    def hook(role: str, layer: int) -> Any:
        def read(module: Any, inputs: tuple[torch.Tensor, ...], _output: Any) -> None:
            keep(role, layer, read_by(module, inputs[0], layout)[0].flatten(0, -2))

        return read

    def attention(layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        for site, heads in (("key", key), ("value", value)):
            keep(site, layer, heads.transpose(0, 1).flatten(1, 2))

    with ExitStack() as stack:
        stack.enter_context(recorded_attention(model, layout, attention))
        for layer in range(layout.num_layers):
            for role in ("attention_norm", "mlp_norm"):
                norm = model.get_submodule(layout.module(layer, role))
                stack.callback(norm.register_forward_hook(hook(role, layer)).remove)
        yield
