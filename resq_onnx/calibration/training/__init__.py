"""Train rotations and tune weights in PyTorch by gradient descent on the quantised model."""

from resq_onnx.calibration.training.rotations import Training
from resq_onnx.calibration.training.simulated_model import SimulatedModel
from resq_onnx.calibration.training.simulation import check_attention
from resq_onnx.calibration.training.tuning import Tuning

__all__ = ["SimulatedModel", "Training", "Tuning", "check_attention"]
