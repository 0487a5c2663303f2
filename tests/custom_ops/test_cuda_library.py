"""The second library, of kernels for CUDA, which the first one loads where it lies beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from resq_onnx import custom_ops
from resq_onnx.errors import ResqError
from tests.custom_ops.kernels import Node, assert_identical
from tests.custom_ops.matmul_cases import FORMS, node_of

NAME: Final = "libresq_onnx_ops_cuda.so"

LARGEST: Final = 20_000_000
"""Bytes of the library for all architectures."""

STAND_IN: Final = """
#include <cstring>
extern "C" const void* resq_onnx_add_cuda_operators(const void* api, void* domain, const char* v) {
    return api != nullptr && domain != nullptr && std::strcmp(v, "%s") == 0 ? nullptr : "";
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the first library, which is the one in use."""
    library = custom_ops.library_path()
    copy = tmp_path / "lib" / library.name
    copy.parent.mkdir()
    shutil.copyfile(library, copy)
    monkeypatch.setenv("RESQ_ONNX_LIBRARY", str(copy))
    return copy.parent


@pytest.fixture
def node() -> Node:
    return node_of(FORMS["both parts"], 3)


def compile_library(target: Path, source: str) -> None:
    subprocess.run(
        [os.environ.get("CXX", "c++"), "-shared", "-fPIC", "-xc++", "-", "-o", target],
        input=source.encode(),
        check=True,
    )


def test_what_is_no_library_is_refused_by_its_name(folder: Path, node: Node) -> None:
    (folder / NAME).write_text("no library")
    with pytest.raises(ResqError, match=NAME):
        node.run()


def test_a_library_without_the_entry_is_refused(folder: Path, node: Node) -> None:
    compile_library(folder / NAME, "int nothing;")
    with pytest.raises(ResqError, match="resq_onnx_add_cuda_operators"):
        node.run()


def test_a_library_is_told_the_version_of_the_first(folder: Path, node: Node) -> None:
    """It refuses another than its own: both are built together."""
    compile_library(folder / NAME, STAND_IN % library_version())
    assert len(node.run()) == 1


def library_version() -> str:
    """What the first library says it belongs to."""
    return custom_ops._text("resq_onnx_version")


def test_the_library_itself_loads_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, node: Node
) -> None:
    """`make cuda` builds both, one beside the other; the CPU's results are what they were."""
    built = os.environ.get("RESQ_CUDA_LIBRARY")
    if not built:
        pytest.skip("RESQ_CUDA_LIBRARY names no libresq_onnx_ops_cuda.so: `make cuda`")
    assert Path(built).stat().st_size <= LARGEST
    wanted = node.run()
    monkeypatch.setenv("RESQ_ONNX_LIBRARY", str(Path(built).with_name("libresq_onnx_ops.so")))
    assert_identical(node.run(), wanted)
