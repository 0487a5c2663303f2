"""Model families as records: where each part of a decoder sits in a Hugging Face model."""

from resq_onnx.families.layout import ModelLayout, layout_of
from resq_onnx.families.length import with_length
from resq_onnx.families.records import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "ModelLayout", "layout_of", "with_length"]
