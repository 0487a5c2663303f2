"""Time MatMulNBits, ONNX Runtime's product with 4-bit weights, on the matrices of a model.

    python -m scripts.gpu_nbits             # onnxruntime-gpu
    python -m scripts.gpu_nbits --rehearse  # on this CPU, with a small model

Blocks of 32 columns with a float16 scale. A file holds several matrices of one shape, so that their
weights come from memory and not from a cache. Prints a line of JSON for each shape.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any, Final

import numpy as np

from scripts.cuda_work import Matrix, matrices
from scripts.gpu_shapes import FULL, TINY, Sizes
from scripts.gpu_stages import ABSENT

BLOCK: Final = 32
COPIES: Final = 8
SAMPLES: Final = 11


def model_of(matrix: Matrix) -> bytes:
    """A file that multiplies X (rows, columns) with `COPIES` matrices."""
    import onnx.helper as oh
    from onnx import TensorProto, numpy_helper

    rng = np.random.default_rng(0)
    blocks = matrix.columns // BLOCK
    attributes: dict[str, Any] = {
        "K": matrix.columns,
        "N": matrix.outputs,
        "bits": 4,
        "block_size": BLOCK,
    }
    nodes, weights, outputs = [], [], []
    for i in range(COPIES):
        integers = rng.integers(0, 256, (matrix.outputs, blocks, BLOCK // 2), np.uint8)
        scales = np.full((matrix.outputs, blocks), 0.01, np.float16)
        weights += [numpy_helper.from_array(integers, f"w{i}")]
        weights += [numpy_helper.from_array(scales, f"s{i}")]
        inputs = ["x", f"w{i}", f"s{i}"]
        nodes.append(
            oh.make_node("MatMulNBits", inputs, [f"y{i}"], domain="com.microsoft", **attributes)
        )
        outputs.append(
            oh.make_tensor_value_info(f"y{i}", TensorProto.FLOAT16, ["rows", matrix.outputs])
        )
    x = oh.make_tensor_value_info("x", TensorProto.FLOAT16, ["rows", matrix.columns])
    graph = oh.make_graph(nodes, "products", [x], outputs, weights)
    opsets = [oh.make_opsetid("", 21), oh.make_opsetid("com.microsoft", 1)]
    return bytes(oh.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def microseconds(session: Any, device: str, rows: int, columns: int) -> float:
    """Median time of one of a session's products, with input and outputs on the device."""
    import onnxruntime

    x = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float16)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x, device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, device)
    times = []
    for _ in range(SAMPLES + 1):
        begin = time.perf_counter()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        times.append(1e6 * (time.perf_counter() - begin) / COPIES)
    return statistics.median(times[1:])


def time_all(sizes: Sizes, device: str, provider: str) -> None:
    """Time the matrices of the first model, with one row and with those of a prompt."""
    import onnxruntime

    model = sizes.models[0]
    for matrix in matrices(model):
        session = onnxruntime.InferenceSession(model_of(matrix), providers=[provider])
        for rows in (1, sizes.whole):
            found = microseconds(session, device, rows, matrix.columns)
            print(json.dumps({"key": key_of(model.name, matrix.name, rows), "us": found}))
            sys.stdout.flush()


def key_of(model: str, matrix: str, rows: int) -> str:
    """What identifies a time in the results."""
    return f"{model}, matmul {matrix}, {rows}"


def missing(provider: str) -> str:
    """What is not installed, or nothing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ModuleNotFoundError as absent:
        return f"no {absent.name}"
    if provider not in onnxruntime.get_available_providers():
        return f"onnxruntime {onnxruntime.__version__} has no {provider}"
    return ""


def main() -> None:
    """Time, or say what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true")
    rehearse = parser.parse_args().rehearse
    provider = "CPUExecutionProvider" if rehearse else "CUDAExecutionProvider"
    if reason := missing(provider):
        print(reason, file=sys.stderr)
        sys.exit(ABSENT)
    time_all(TINY if rehearse else FULL, "cpu" if rehearse else "cuda", provider)


if __name__ == "__main__":
    main()
