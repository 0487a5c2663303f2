"""What tests on a GPU need, and which of it is missing; `python -m tests.cuda.gpu` tells it."""

from __future__ import annotations

import ctypes

import onnxruntime

from resq_onnx.errors import ResqError
from resq_onnx.runtime import library
from resq_onnx.runtime.providers import CUDA_PROVIDER


def missing() -> list[str]:
    """Why nothing runs on a GPU here: nothing if it can."""
    found = [_driver(), _provider(), _library()]
    return [reason for reason in found if reason]


def _driver() -> str:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1)"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "no NVIDIA GPU"
    return ""


def _provider() -> str:
    if CUDA_PROVIDER in onnxruntime.get_available_providers():
        return ""
    return f"onnxruntime {onnxruntime.__version__} was built without CUDA"


def _library() -> str:
    try:
        library.cuda_library_path()
    except ResqError:
        return f"{library.CUDA_LIBRARY_NAME} was not built"
    return ""


if __name__ == "__main__":
    reasons = missing()
    print(f"Nothing ran on a GPU: {'; '.join(reasons)}" if reasons else "The tests ran on a GPU.")
