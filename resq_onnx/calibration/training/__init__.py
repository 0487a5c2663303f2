"""Train rotations in PyTorch by gradient descent on the quantised model."""

from resq_onnx.calibration.training.rotations import BATCH, train_rotations

__all__ = ["BATCH", "train_rotations"]
