"""Divergence of a model's predictions from given ones, and its gradient, a few tokens at a time.

Logits of 512 tokens are 100 MB with a vocabulary of 49,152. Here they exist for a few tokens at a
time, and so does their gradient, which is known in closed form: softmax(q) - softmax(p).
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import nn

LOGITS: Final = 1 << 23
"""Logits that are computed at a time."""


def last_hidden(model: Any, token_ids: torch.Tensor) -> torch.Tensor:
    """What lm_head reads, (B, S, D)."""
    return cast(
        torch.Tensor, model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
    )


def divergence(head: nn.Module, hidden: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """KL divergence of the predictions from the expected ones, in nats a token.

    Args:
        head: lm_head; its weights get no gradient.
        hidden: What it reads, (..., D), with a gradient.
        expected: What it reads in the float model, (..., D).
    """
    rows = hidden.flatten(0, -2), expected.flatten(0, -2)
    found: torch.Tensor = cast(Any, _Divergence).apply(*rows, head)
    return found


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, expected: torch.Tensor, head: Any) -> torch.Tensor:
        total, gradients = hidden.new_zeros(()), []
        at_once = max(1, LOGITS // head.weight.shape[0])
        for q_hidden, p_hidden in zip(hidden.split(at_once), expected.split(at_once), strict=True):
            q, p = head(q_hidden).float(), head(p_hidden).float()
            q -= q.logsumexp(-1, keepdim=True)
            p -= p.logsumexp(-1, keepdim=True)
            probabilities = p.exp()
            total += (probabilities * p.sub_(q)).sum()
            gradients.append(q.exp_().sub_(probabilities).to(hidden.dtype) @ head.weight)
        ctx.save_for_backward(torch.cat(gradients).div_(len(hidden)))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (known,) = ctx.saved_tensors
        return known * gradients[0], None, None
