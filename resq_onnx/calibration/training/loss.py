"""Losses of a model and their gradients, a few tokens at a time.

Logits of 512 tokens are 100 MB with a vocabulary of 49,152. Here they exist for a few tokens at a
time, and so does their gradient, which is known in closed form: softmax less the distribution that
is wanted, which is one at the next token or that of the float model.
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


def next_token_loss(head: nn.Module, hidden: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats, of all but the first tokens of (B, S).

    Args:
        head: lm_head; its weights get no gradient.
        hidden: What it reads, (B, S, D), with a gradient.
        token_ids: The text.
    """
    rows, targets = hidden[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten()
    loss: torch.Tensor = cast(Any, _NextTokenLoss).apply(rows, targets, head)
    return loss


class _NextTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Any) -> torch.Tensor:
        total, gradients = hidden.new_zeros(()), []
        at_once = max(1, LOGITS // head.weight.shape[0])
        for rows, ids in zip(hidden.split(at_once), targets.split(at_once), strict=True):
            logits, places = head(rows).float(), ids[:, None]
            logits -= logits.logsumexp(-1, keepdim=True)
            total -= logits.gather(-1, places).sum()
            change = logits.exp_().scatter_add_(-1, places, -torch.ones_like(logits[:, :1]))
            gradients.append(change.to(hidden.dtype) @ head.weight)
        ctx.save_for_backward(torch.cat(gradients).div_(len(hidden)))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (known,) = ctx.saved_tensors
        return known * gradients[0], None, None


def divergence(head: nn.Module, hidden: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence from the distributions of another model, in nats.

    Args:
        head: lm_head of both; its weights get no gradient.
        hidden: What it reads, (tokens, D), with a gradient.
        expected: The same of the other model.
    """
    loss: torch.Tensor = cast(Any, _Divergence).apply(hidden, expected, head)
    return loss


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, expected: torch.Tensor, head: Any) -> torch.Tensor:
        total, gradients = hidden.new_zeros(()), []
        at_once = max(1, LOGITS // head.weight.shape[0])
        for rows, others in zip(hidden.split(at_once), expected.split(at_once), strict=True):
            found, wanted = (head(some).float().log_softmax(-1) for some in (rows, others))
            shares = wanted.exp()
            total += (wanted.sub_(found) * shares).sum()
            change = found.exp_().sub_(shares)
            gradients.append(change.to(hidden.dtype) @ head.weight)
        ctx.save_for_backward(torch.cat(gradients).div_(len(hidden)))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (known,) = ctx.saved_tensors
        return known * gradients[0], None, None
