"""Atomic writing of files, and checks of files that are read."""

from resq_onnx.files.checks import (
    check_is_file,
    copy_file,
    find_model,
    holds_original,
    model_files,
    reading,
)
from resq_onnx.files.overwriting import refuse_overwriting
from resq_onnx.files.staging import Staging, staged
from resq_onnx.files.writing import replacing, writing_to

__all__ = [
    "Staging",
    "check_is_file",
    "copy_file",
    "find_model",
    "holds_original",
    "model_files",
    "reading",
    "refuse_overwriting",
    "replacing",
    "staged",
    "writing_to",
]
