"""Simulate the quantised activations and cache of the exported file in PyTorch.

The weights stay in the original basis. At each site that the file quantises, values are transformed
into the new basis, rounded, and transformed back:

1. the input of q/k/v and gate/up, after the norm's division, and before its gain or, with
   `ModelLayout.turns_inputs`, after it;
2. keys and values after RoPE: attention then works in the new bases of a head;
3. the input of o_proj, per head; 4. the input of down_proj.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from resq_onnx.calibration.statistics import gain_of
from resq_onnx.calibration.training.quantisers import (
    Part,
    fake_quantise,
    parts_of,
    straight_through,
)
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.projections import Projections
from resq_onnx.projections.hadamard import KroneckerFactors
from resq_onnx.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION: Final = "resq_simulated"
"""Name under which the simulated attention is registered with transformers."""


@dataclass(frozen=True)
class Parts:
    """Quantised parts of each site: one entry per layer, and the record of the cache."""

    attention: tuple[tuple[Part, ...], ...]
    mlp: tuple[tuple[Part, ...], ...]
    attention_out: tuple[tuple[Part, ...], ...]
    down: tuple[tuple[Part, ...], ...]
    record: tuple[Part, ...]


@dataclass(frozen=True)
class Bases:
    """Changes of basis that a simulation reads again in each pass, so that they can be trained.

    Attributes:
        hidden: (D, D), or (layers, D, D) for one basis per layer.
        value: (layers, kv heads, d, d).
        key: (layers, kv heads, d, d).
    """

    hidden: torch.Tensor
    value: torch.Tensor
    key: torch.Tensor

    def hidden_of(self, layer: int) -> torch.Tensor:
        """U_A as a layer reads it, (D, D)."""
        return self.hidden if self.hidden.dim() == 2 else self.hidden[layer]


def parts_by_recipe(recipe: Recipe, projections: Projections) -> Parts:
    """The parts of every site, as in the exported file."""
    splits = projections.splits
    reads = recipe.activations == "quantised"
    attention, mlp, attention_out, down = (
        tuple(parts_of(split, recipe.low_clip(split)) if reads else () for split in of_site)
        for of_site in (splits.attention, splits.mlp, splits.attention_out, splits.down)
    )
    record = parts_of(splits.record) if recipe.cache == "quantised" else ()
    return Parts(attention, mlp, attention_out, down, record)


def bases_of(projections: Projections, device: str = "cpu") -> Bases:
    """The projections as float32 tensors."""
    tensors = (
        torch.from_numpy(np.ascontiguousarray(basis)).float().to(device)
        for basis in (projections.hidden, projections.value, projections.key)
    )
    return Bases(*tensors)


def check_attention(layout: ModelLayout) -> None:
    """Refuse a model whose attention cannot be simulated.

    Raises:
        ResqError: Its scores are capped.
    """
    if layout.softcap is not None:
        raise ResqError(
            f"neither rotations nor weights can be trained for {layout.family.name}, whose "
            f"attention scores are capped; use --rotations fitted, a method other than spinquant, "
            f"and --tune 0"
        )


@contextmanager
def simulated(
    model: PreTrainedModel,
    layout: ModelLayout,
    projections: Projections,
    parts: Parts,
    bases: Callable[[], Bases],
) -> Iterator[None]:
    """Quantise the inputs of a model's modules inside the context.

    Args:
        model: A Hugging Face causal language model.
        layout: Its sizes and module names.
        projections: Source of U_D.
        parts: Quantised parts of each site.
        bases: Called in each pass; returns the bases of that pass.

    Raises:
        ResqError: The simulation does not support the model's attention.
    """
    check_attention(layout)
    device = str(next(cast(Any, model).parameters()).device)
    with ExitStack() as stack:
        stack.enter_context(_attending(model, _attention(layout, parts.record, bases)))

        def module(layer: int, role: str) -> nn.Module:
            return model.get_submodule(layout.module(layer, role))

        for layer in range(layout.num_layers):
            handles = [
                module(layer, "attention_norm").register_forward_hook(
                    _norm(layout, bases, layer, parts.attention[layer])
                ),
                module(layer, "mlp_norm").register_forward_hook(
                    _norm(layout, bases, layer, parts.mlp[layer])
                ),
                module(layer, "attention_out").register_forward_pre_hook(
                    _attention_out(layout, bases, layer, parts.attention_out[layer])
                ),
                module(layer, "down").register_forward_pre_hook(
                    _down(projections, layer, parts.down[layer], device)
                ),
            ]
            for handle in handles:
                stack.callback(handle.remove)
        yield


@contextmanager
def _attending(
    model: PreTrainedModel, attend: Callable[..., tuple[torch.Tensor, None]]
) -> Iterator[None]:
    """Compute attention by a function inside the context."""
    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    before = cast(Any, model.config)._attn_implementation
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _read_by(
    module: nn.Module, x: torch.Tensor, layout: ModelLayout
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What is rounded behind an RMSNorm of x (..., D), and the gain that follows it, if any."""
    divided = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + layout.norm_epsilon)
    gain = gain_of(module, layout)
    return (divided * gain, None) if layout.turns_inputs else (divided, gain)


def _norm(
    layout: ModelLayout, bases: Callable[[], Bases], layer: int, parts: tuple[Part, ...]
) -> Callable[..., torch.Tensor]:
    """Rule 1: a forward hook of an RMSNorm."""

    def read(module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: Any) -> torch.Tensor:
        basis = bases().hidden_of(layer)
        before, gain = _read_by(module, inputs[0], layout)

        def rounded(x: torch.Tensor) -> torch.Tensor:
            return fake_quantise(x @ basis, parts) @ basis.mT

        # There and back is the identity; only a basis that is trained needs its own gradient.
        x = rounded(before) if basis.requires_grad else straight_through(before, rounded)
        return x if gain is None else x * gain

    return read


def _attention(
    layout: ModelLayout, record: tuple[Part, ...], bases: Callable[[], Bases]
) -> Callable[..., tuple[torch.Tensor, None]]:
    """Rule 2: attention over queries (B, H, S, d), keys and values (B, G, S, d)."""

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float,
        **_unused: Any,
    ) -> tuple[torch.Tensor, None]:
        layer, now = cast(int, module.layer_idx), bases()
        repeats, turn = layout.heads_per_kv_head, now.key[layer]
        keys = fake_quantise(key @ turn, record).repeat_interleave(repeats, dim=1)
        values = fake_quantise(value @ now.value[layer], record).repeat_interleave(repeats, dim=1)
        out = nn.functional.scaled_dot_product_attention(
            query @ turn.repeat_interleave(repeats, dim=0),
            keys,
            values,
            attn_mask=attention_mask,
            is_causal=attention_mask is None and query.shape[2] > 1,
            scale=scaling,
        )
        return out.transpose(1, 2).contiguous(), None  # (B, S, H, d), values' basis

    return attend


def _attention_out(
    layout: ModelLayout, bases: Callable[[], Bases], layer: int, parts: tuple[Part, ...]
) -> Callable[..., tuple[torch.Tensor]]:
    """Rule 3: a forward pre-hook of o_proj, whose input is still in the basis of the values."""

    def read(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        x = inputs[0]
        heads = x.unflatten(-1, (layout.num_heads, layout.head_dim))
        turn = bases().value[layer].repeat_interleave(layout.heads_per_kv_head, dim=0)
        rounded = fake_quantise(heads, parts)
        return (torch.einsum("...hd,hed->...he", rounded, turn).reshape(x.shape),)

    return read


def _down(
    projections: Projections, layer: int, parts: tuple[Part, ...], device: str
) -> Callable[..., tuple[torch.Tensor]]:
    """Rule 4: a forward pre-hook of down_proj."""
    transform, split = projections.down[layer], projections.splits.down[layer]
    order = torch.from_numpy(transform.order).to(device)
    back = torch.argsort(order)
    signs = torch.from_numpy(transform.signs).float().to(device)
    turns = [
        (_tensors(factors[width], device), width)
        for factors, width in (
            (projections.down_low, split.low),
            (projections.down_high, split.high),
        )
        if width
    ]

    def turned(x: torch.Tensor, inverse: bool) -> torch.Tensor:
        if not projections.rotates_down:
            return x
        columns = x.split([width for _, width in turns], dim=-1)
        return torch.cat(
            [
                _kronecker(part, outer.mT if inverse else outer, inner.mT if inverse else inner)
                for part, ((outer, inner), _) in zip(columns, turns, strict=True)
            ],
            dim=-1,
        )

    def rounded(x: torch.Tensor) -> torch.Tensor:
        there = turned(x[..., order] * signs, inverse=False)
        return (turned(fake_quantise(there, parts), inverse=True) * signs)[..., back]

    def read(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (straight_through(inputs[0], rounded),)  # U_D is not trained

    return read


def _tensors(factors: KroneckerFactors, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.from_numpy(factors.outer).float().to(device),
        torch.from_numpy(factors.inner).float().to(device),
    )


def _kronecker(x: torch.Tensor, outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Compute x @ kron(outer, inner) over the last axis."""
    rows = x.unflatten(-1, (outer.shape[0], inner.shape[0]))
    mixed: torch.Tensor = outer.mT @ (rows @ inner)
    return mixed.flatten(-2)
