"""Losses of a model and their gradients, a few tokens at a time.

Logits of 512 tokens are 100 MB with a vocabulary of 49,152. Here they exist for a few tokens at a
time, and so does their gradient, which is known in closed form: softmax less the distribution that
is wanted, which is one at the next token or that of the float model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch import nn

LOGITS: Final = 1 << 23
"""Logits that are computed at a time."""

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Of lm_head, rows (tokens, D) that it reads, and what is wanted of each: the rows' loss, summed,
and its gradient at their logits, (tokens, vocabulary)."""


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
    return _mean_of_rows(_cross_entropy, head, rows, targets)


def divergence(head: nn.Module, hidden: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence from the distributions of another model, in nats.

    Args:
        head: lm_head of both; its weights get no gradient.
        hidden: What it reads, (tokens, D), with a gradient.
        expected: The same of the other model.
    """
    return _mean_of_rows(_kl_divergence, head, hidden, expected)


def _cross_entropy(
    head: nn.Module, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    logits, places = head(rows).float(), targets[:, None]
    logits -= logits.logsumexp(-1, keepdim=True)
    loss = -logits.gather(-1, places).sum()
    return loss, logits.exp_().scatter_add_(-1, places, -torch.ones_like(logits[:, :1]))


def _kl_divergence(
    head: nn.Module, rows: torch.Tensor, expected: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    found, wanted = (head(some).float().log_softmax(-1) for some in (rows, expected))
    shares = wanted.exp()
    loss = (wanted.sub_(found) * shares).sum()
    return loss, found.exp_().sub_(shares)


def _mean_of_rows(
    loss: Loss, head: nn.Module, hidden: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    mean: torch.Tensor = cast(Any, _MeanOfRows).apply(hidden, wanted, head, loss)
    return mean


class _MeanOfRows(torch.autograd.Function):
    """A mean loss of rows, with its gradient at them; the logits of a few exist at a time."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, wanted: torch.Tensor, head: Any, loss: Loss
    ) -> torch.Tensor:
        total, gradients = hidden.new_zeros(()), []
        at_once = max(1, LOGITS // head.weight.shape[0])
        for rows, of_rows in zip(hidden.split(at_once), wanted.split(at_once), strict=True):
            lost, change = loss(head, rows, of_rows)
            total += lost
            gradients.append(change.to(hidden.dtype) @ head.weight)
        ctx.save_for_backward(torch.cat(gradients).div_(len(hidden)))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (known,) = ctx.saved_tensors
        return known * gradients[0], None, None, None
