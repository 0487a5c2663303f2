"""Products that are computed faster, inside a pass alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from resq_onnx.calibration.training import precision
from resq_onnx.calibration.training.loss import next_token_loss
from resq_onnx.calibration.training.precision import PRECISION, fast_products
from resq_onnx.calibration.training.simulated_model import SimulatedModel
from resq_onnx.calibration.training.simulation import bases_of
from resq_onnx.projections.bases import compute_projections
from resq_onnx.recipe import Recipe
from tests.calibration.tiny import layout, sequences, tiny_llama


def _stop() -> None:
    assert torch.get_float32_matmul_precision() == PRECISION
    raise KeyboardInterrupt


@pytest.fixture
def _faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "are_faster", lambda: True)


@pytest.mark.usefixtures("_faster")
def test_what_was_set_before_is_set_again_after_an_error_too() -> None:
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyboardInterrupt), fast_products():
        _stop()
    assert torch.get_float32_matmul_precision() == before != PRECISION


@pytest.mark.parametrize(("seconds", "faster"), [(1.0, False), (0.9, False), (0.5, True)])
def test_they_are_used_where_they_are_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: float, faster: bool
) -> None:
    before, now = torch.get_float32_matmul_precision(), 0.0

    def clock() -> float:
        nonlocal now
        now += seconds if torch.get_float32_matmul_precision() == PRECISION else 1.0
        return now

    monkeypatch.setattr(precision, "clock", clock)
    assert precision.are_faster.__wrapped__() is faster
    assert torch.get_float32_matmul_precision() == before


def test_elsewhere_products_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "are_faster", lambda: False)
    before = torch.get_float32_matmul_precision()
    with fast_products():
        assert torch.get_float32_matmul_precision() == before
    monkeypatch.setattr(precision, "are_faster", lambda: True)
    with fast_products("cuda"):
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.usefixtures("_faster")
def test_passes_of_a_simulated_model_have_fast_products() -> None:
    recipe, model, seen = Recipe(method="quarot"), tiny_llama(), list[str]()
    bases = compute_projections(recipe, layout(model), None)
    simulated = SimulatedModel(model, layout(model), recipe, bases, sequences(2, 24))

    def see(*_of_pass: Any) -> None:
        seen.append(torch.get_float32_matmul_precision())

    def loss(head: nn.Module, hidden: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        hidden.register_hook(see)  # in the backward pass
        return next_token_loss(head, hidden, token_ids)

    handle = model.lm_head.register_forward_hook(see)
    simulated.backward(1, loss, bases_of(bases), [model.model.layers[0].mlp.up_proj.weight])
    handle.remove()
    model.model.norm.register_forward_hook(see)
    simulated.float_hidden(1)
    assert seen == [PRECISION] * 3
    assert torch.get_float32_matmul_precision() != PRECISION
