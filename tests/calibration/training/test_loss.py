import pytest
import torch

from resq_onnx.calibration.training import loss as module
from resq_onnx.calibration.training.loss import divergence, next_token_loss


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_loss_and_gradient_are_those_of_all_logits(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=False)
    monkeypatch.setattr(module, "LOGITS", at_once * 11)
    hidden = torch.randn(2, 5, 6, generator=generator)
    token_ids = torch.randint(11, (2, 5), generator=generator)
    found, obvious = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    logits = head(obvious)[:, :-1].flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, token_ids[:, 1:].flatten())
    loss = next_token_loss(head, found, token_ids)
    torch.testing.assert_close(loss, wanted)
    (3 * loss).backward()
    (3 * wanted).backward()
    torch.testing.assert_close(found.grad, obvious.grad)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_divergence_and_gradient_are_those_of_all_logits(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=False)
    monkeypatch.setattr(module, "LOGITS", at_once * 11)
    hidden, expected = torch.randn(2, 7, 6, generator=generator)
    found, obvious = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    ours, theirs = (head(rows).log_softmax(-1) for rows in (obvious, expected))
    wanted = torch.nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    loss = divergence(head, found, expected)
    torch.testing.assert_close(loss, wanted)
    (3 * loss).backward()
    (3 * wanted).backward()
    torch.testing.assert_close(found.grad, obvious.grad)
