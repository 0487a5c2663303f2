"""Weight quantisers: round to nearest, and GPTQ."""

from resq_onnx.weights.gptq import gptq
from resq_onnx.weights.quantised import QuantisedMatrix
from resq_onnx.weights.rtn import round_to_nearest

__all__ = ["QuantisedMatrix", "gptq", "round_to_nearest"]
