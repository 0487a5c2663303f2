import pytest
import torch

from resq_onnx.calibration.training import divergence as module
from resq_onnx.calibration.training.divergence import divergence


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_divergence_and_gradient_are_those_of_all_logits(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 11, bias=False)
    monkeypatch.setattr(module, "LOGITS", at_once * 11)
    hidden, expected = (torch.randn(2, 4, 6, generator=generator) for _ in range(2))
    found, obvious = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    log_q = torch.log_softmax(head(obvious), -1)
    p = torch.softmax(head(expected), -1).detach()
    wanted = (p * (p.log() - log_q)).sum(-1).mean()
    loss = divergence(head, found, expected)
    torch.testing.assert_close(loss, wanted)
    (3 * loss).backward()
    (3 * wanted).backward()
    torch.testing.assert_close(found.grad, obvious.grad)


def test_equal_predictions_do_not_diverge() -> None:
    hidden = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    loss = divergence(torch.nn.Linear(6, 11), hidden, hidden)
    assert float(loss) == pytest.approx(0, abs=1e-6)
