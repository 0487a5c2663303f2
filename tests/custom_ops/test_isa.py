"""Every instruction set gives what the scalar kernels give, and RESQ_ONNX_ISA chooses one."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.runtime import library
from tests.custom_ops.instruction_sets import NAMES, skip_unless_available
from tests.custom_ops.kernels import run_module

Array = NDArray[Any]
Results = dict[str, Array]

FAST: Final = tuple(name for name in NAMES if name != "scalar")


def results(isa: str, folder: Path) -> Results:
    """By node and output, what a process gives that runs an instruction set."""
    found = folder / f"{isa}.npz"
    result = run_module("every_node", found, isa=isa)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [isa]
    with np.load(found) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def scalar(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What the scalar kernels give."""
    return results("scalar", tmp_path_factory.mktemp("scalar"))


@pytest.mark.parametrize("isa", FAST)
def test_every_instruction_set_agrees_with_the_scalar_kernels_to_the_last_bit(
    isa: str, scalar: Results, tmp_path: Path
) -> None:
    skip_unless_available(isa)
    found = results(isa, tmp_path)
    assert found.keys() == scalar.keys()
    different = [name for name in scalar if found[name].tobytes() != scalar[name].tobytes()]
    assert not different


@pytest.mark.parametrize("isa", ["avx1024", "AVX2", "avx2,scalar"])
def test_an_unknown_instruction_set_is_refused_with_those_there_are(
    isa: str, tmp_path: Path
) -> None:
    result = run_module("every_node", tmp_path / "found.npz", isa=isa)
    assert result.returncode == 1
    for name in ("RESQ_ONNX_ISA", isa, *library.available_instruction_sets()):
        assert name in result.stderr


def test_an_instruction_set_that_this_machine_lacks_is_refused(tmp_path: Path) -> None:
    available = library.available_instruction_sets()
    lacking = [name for name in NAMES if name not in available]
    assert lacking  # no machine has those of x86 and of Arm
    result = run_module("every_node", tmp_path / "found.npz", isa=lacking[0])
    assert result.returncode == 1
    for name in (lacking[0], *available):
        assert name in result.stderr


def test_python_and_the_library_name_the_same_instruction_sets() -> None:
    loaded = ctypes.CDLL(str(library.library_path()))
    for function in (loaded.resq_onnx_isa, loaded.resq_onnx_available_isas):
        function.restype = ctypes.c_char_p
    available = library.available_instruction_sets()
    assert loaded.resq_onnx_isa().decode() == library.instruction_set()
    assert loaded.resq_onnx_available_isas().decode().split(",") == list(available)
    assert {"scalar", library.instruction_set()} <= set(available) <= set(NAMES)
