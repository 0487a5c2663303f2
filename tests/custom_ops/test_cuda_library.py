"""The second library, of kernels for CUDA, which the first one loads where it lies beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.runtime import create_session, library
from tests.custom_ops.kernels import Node, assert_identical
from tests.custom_ops.matmul_cases import FORMS, node_of
from tests.simt.casting import model_in

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
    first = library.library_path()
    copy = tmp_path / "lib" / first.name
    copy.parent.mkdir()
    shutil.copyfile(first, copy)
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
    return library._text("resq_onnx_version")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library that `make cuda` builds, and beside it a first one, which is in use."""
    built = os.environ.get("RESQ_CUDA_LIBRARY")
    if not built:
        pytest.skip("RESQ_CUDA_LIBRARY names no libresq_onnx_ops_cuda.so: `make cuda`")
    monkeypatch.setenv("RESQ_ONNX_LIBRARY", str(Path(built).with_name("libresq_onnx_ops.so")))
    return Path(built)


def test_the_library_itself_loads_without_a_gpu(
    node: Node, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's results are what they are without it."""
    assert beside.stat().st_size <= LARGEST
    found = node.run()
    monkeypatch.delenv("RESQ_ONNX_LIBRARY")
    assert_identical(found, node.run())


@pytest.mark.usefixtures("beside")
def test_a_type_that_only_a_gpu_has_kernels_for_is_refused_on_a_cpu(
    node: Node, tmp_path: Path
) -> None:
    path = tmp_path / "node.onnx"
    path.write_bytes(model_in(node, "bfloat16"))
    with pytest.raises(ResqError, match="--provider cuda"):
        create_session(path)
