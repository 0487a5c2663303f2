"""Devices by name."""

import pytest
import torch

from resq_onnx.calibration.working import torch_device
from resq_onnx.errors import ResqError


def test_a_gpu_is_taken_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, device in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert torch_device("auto") == device


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "mps", "cpu:0"])
def test_another_name_is_refused(device: str) -> None:
    with pytest.raises(ResqError, match="it must be auto, cpu, cuda or cuda:N"):
        torch_device(device)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResqError, match="PyTorch finds no GPU; use --device cpu"):
        torch_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device("cuda:1") == "cuda:1"
    with pytest.raises(ResqError, match="there are 2; use --device cpu"):
        torch_device("cuda:2")
