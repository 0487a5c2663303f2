from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime as ort
import pytest

import resq_onnx
from resq_onnx.errors import ResqError
from resq_onnx.runtime import library

FLOAT = onnx.TensorProto.FLOAT


def model_with_a_function(name: str) -> bytes:
    """y = Double(x), where `ai.resq::<name>` is a function in the model: y = x + x."""
    opsets = [oh.make_opsetid("", 23), oh.make_opsetid("ai.resq", 1)]
    body = [oh.make_node("Add", ["x", "x"], ["y"])]
    function = oh.make_function("ai.resq", name, ["x"], ["y"], body, opsets[:1])
    graph = oh.make_graph(
        [oh.make_node(name, ["x"], ["y"], domain="ai.resq")],
        "double",
        [oh.make_tensor_value_info("x", FLOAT, ["n"])],
        [oh.make_tensor_value_info("y", FLOAT, ["n"])],
    )
    model = oh.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_a_session_with_the_library_runs_the_functions_it_has_no_kernel_for() -> None:
    options = ort.SessionOptions()
    library.register(options)
    session = ort.InferenceSession(
        model_with_a_function("Double"), options, providers=["CPUExecutionProvider"]
    )
    x = np.array([1.0, -2.5], dtype=np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x + x)


def test_a_package_that_was_never_built_says_how_to_build_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RESQ_ONNX_LIBRARY", raising=False)
    monkeypatch.setattr(resq_onnx.__spec__, "submodule_search_locations", [str(tmp_path)])
    with pytest.raises(ResqError, match=r"not in .*lib.*pip install"):
        library.library_path()


def test_the_library_is_found_in_any_folder_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    built = installed / "lib" / "libresq_onnx_ops.so"
    built.parent.mkdir(parents=True)
    built.touch()
    monkeypatch.delenv("RESQ_ONNX_LIBRARY", raising=False)
    monkeypatch.setattr(
        resq_onnx.__spec__, "submodule_search_locations", [str(source), str(installed)]
    )
    assert library.library_path() == built


def test_a_library_of_ones_own_takes_the_place_of_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / "libresq_onnx_ops.so"
    monkeypatch.setenv("RESQ_ONNX_LIBRARY", str(built))
    with pytest.raises(ResqError, match=r"RESQ_ONNX_LIBRARY.*not a file"):
        library.library_path()
    built.touch()
    assert library.library_path() == built


def test_an_onnxruntime_that_is_too_old_is_refused_with_its_version() -> None:
    """Calls the entry as ONNX Runtime 1.17 would: its OrtApiBase gives API versions up to 17."""
    messages = []
    status = 0x5747  # any address: the handle is only passed on
    version = ctypes.c_char_p(b"1.17.3")

    def create_status(code: int, message: bytes) -> int:
        messages.append((code, message.decode()))
        return status

    table = c_table(ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(create_status))
    base = c_table(
        ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(
            lambda version: ctypes.addressof(table) if version <= 17 else None
        ),
        ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: ctypes.cast(version, ctypes.c_void_p).value),
    )
    entry = ctypes.CDLL(str(library.library_path())).RegisterCustomOps
    entry.restype = ctypes.c_void_p

    assert entry(None, ctypes.byref(base)) == status
    fail = 1  # ORT_FAIL
    needed = "resq-onnx needs ONNX Runtime 1.18 or newer, this is 1.17.3; upgrade onnxruntime"
    assert messages == [(fail, needed)]


def c_table(*functions: ctypes._CFunctionType) -> ctypes.Structure:
    """A C struct of these function pointers, which it keeps alive."""
    fields = [(f"function_{slot}", type(function)) for slot, function in enumerate(functions)]
    table: type[ctypes.Structure] = type("Table", (ctypes.Structure,), {"_fields_": fields})
    return table(*functions)
