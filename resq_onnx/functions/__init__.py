"""Definitions of the ai.resq operators, as ONNX functions of standard operators.

A form is a record of the inputs, sizes and steps of a node; `add_call` makes a node of a form
and adds its function to the model.
"""

from resq_onnx.functions._form import Form, Parameter, add_call
from resq_onnx.functions._scale import SMALLEST_SCALE
from resq_onnx.functions._typed import ACTIVATIONS, in_type
from resq_onnx.functions.cache_record import RecordLayout
from resq_onnx.functions.gated_hadamard import HadamardForm
from resq_onnx.functions.mixed_precision_attention import AttentionForm
from resq_onnx.functions.mixed_precision_gather import GatherForm
from resq_onnx.functions.mixed_precision_matmul import MatMulForm
from resq_onnx.functions.rotary_attention import RotaryForm
from resq_onnx.graph.names import DOMAIN, OPSET, VERSION

__all__ = [
    "ACTIVATIONS",
    "DOMAIN",
    "OPSET",
    "SMALLEST_SCALE",
    "VERSION",
    "AttentionForm",
    "Form",
    "GatherForm",
    "HadamardForm",
    "MatMulForm",
    "Parameter",
    "RecordLayout",
    "RotaryForm",
    "add_call",
    "in_type",
]
