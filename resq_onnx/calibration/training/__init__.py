"""Train rotations in PyTorch by gradient descent on the quantised model."""

from resq_onnx.calibration.training.rotations import Training
from resq_onnx.calibration.training.simulation import check_attention

__all__ = ["Training", "check_attention"]
