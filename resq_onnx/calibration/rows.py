"""Rows of what is rounded in each basis, taken while the layers run on the calibration text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.families import ModelLayout

ROW_SITES: Final = ("hidden_attention", "hidden_mlp", "value", "key")
"""Those of `projections.moments.SITES` whose bases are fitted to rows."""

TOKENS: Final = 2048
"""Of each layer, at most."""

BYTES: Final = 1_000_000_000
"""Of all rows, at most: 1,500 tokens of Llama-3-8B; of SmolLM2-135M all 2,048 take 189 MB."""


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


def tokens_of_sample(layout: ModelLayout, tokens: int) -> int:
    """How many of the calibration's tokens are kept of each layer."""
    return min(TOKENS, tokens, max(1, BYTES // (layout.num_layers * bytes_of_token(layout))))


def bytes_of_token(layout: ModelLayout) -> int:
    """Of a token's rows in one layer, as they are kept."""
    return 2 * 2 * (layout.hidden_size + layout.num_kv_heads * layout.head_dim)


def bytes_of_rows(layout: ModelLayout) -> int:
    """Of all that is kept of a long text, in float16."""
    return layout.num_layers * tokens_of_sample(layout, TOKENS) * bytes_of_token(layout)


class RowSample:
    """The rows of one layer at tokens that are others in each layer: U_A serves all of them."""

    def __init__(self, layout: ModelLayout, layer: int, tokens: int) -> None:
        """Choose among so many tokens, which `take` is given in order."""
        count = tokens_of_sample(layout, tokens)
        rng = np.random.default_rng(layer)
        self._chosen = np.sort(rng.choice(tokens, count, replace=False))
        self._seen = dict.fromkeys(ROW_SITES, 0)
        self._kept: dict[str, list[torch.Tensor]] = {site: [] for site in ROW_SITES}

    def take(self, site: str, rows: torch.Tensor) -> None:
        """Keep the chosen ones of the next tokens' rows, (..., tokens, n), in float16."""
        first = self._seen[site]
        self._seen[site] = last = first + rows.shape[-2]
        chosen = self._chosen[slice(*np.searchsorted(self._chosen, (first, last)))] - first
        some = rows[..., torch.from_numpy(chosen).to(rows.device), :].float()
        most = torch.finfo(torch.float16).max
        self._kept[site].append(some.clamp(-most, most).half().cpu())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The rows as a work folder keeps them."""
        joined = {site: torch.cat(kept, dim=-2) for site, kept in self._kept.items()}
        return {_name(site): rows.numpy() for site, rows in joined.items()}


def samples_of(
    layout: ModelLayout, tokens: int, load: Callable[[int], Mapping[str, NDArray[Any]]]
) -> Samples:
    """The rows of all layers.

    Args:
        layout: Of the model.
        tokens: As for `RowSample`.
        load: Reads the arrays of a layer that `RowSample.arrays` gave.
    """
    layers, count = layout.num_layers, tokens_of_sample(layout, tokens)
    heads = (layers, layout.num_kv_heads, count, layout.head_dim)
    hidden = torch.empty((2, layers, count, layout.hidden_size), dtype=torch.float16)
    value, key = (torch.empty(heads, dtype=torch.float16) for _ in range(2))
    for layer in range(layers):
        kept = load(layer)
        for site, to in zip(ROW_SITES, (hidden[0], hidden[1], value, key), strict=True):
            to[layer] = torch.from_numpy(kept[_name(site)])
    return Samples(hidden.flatten(0, 2), value, key)


def names_of_rows() -> list[str]:
    """Of the arrays that `RowSample.arrays` gives."""
    return [_name(site) for site in ROW_SITES]


def _name(site: str) -> str:
    return f"rows.{site}"
