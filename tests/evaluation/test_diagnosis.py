from __future__ import annotations

import sys
from pathlib import Path

import pytest

import resq_onnx
from resq_onnx.evaluation import diagnosis
from resq_onnx.evaluation.diagnosis import diagnose
from resq_onnx.evaluation.installation import Package
from resq_onnx.runtime import library


def test_where_a_model_can_be_run_there_is_no_problem() -> None:
    found = diagnose()
    assert found.problems == ()
    assert found.version == resq_onnx.__version__
    assert found.kernels is not None
    assert found.kernels.used == library.instruction_set()
    assert found.kernels.used in found.kernels.available
    assert found.kernels.path == library.library_path()
    assert "CPUExecutionProvider" in found.providers
    assert 0 < found.memory["available"] <= found.memory["total"]


def test_what_the_system_does_not_say_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "available_bytes", lambda: None)
    monkeypatch.setattr(diagnosis, "total_bytes", lambda: 4096)
    assert diagnose().memory == {"total": 4096}


def test_without_onnxruntime_no_model_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = diagnose()
    assert found.providers == ()
    assert found.kernels is not None
    (problem,) = found.problems
    assert problem.startswith("no onnxruntime; run `pip install")
    assert "resq-onnx[gpu]" in problem


def test_an_onnxruntime_that_is_too_old_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"": (), "cpu": (Package("onnxruntime", "1.2", "1.31"),), "gpu": ()}
    monkeypatch.setattr(diagnosis, "packages_by_extra", lambda: old)
    (problem,) = diagnose().problems
    assert problem.startswith("onnxruntime 1.2 (needs 1.31); run ")


def test_one_of_the_packages_that_bring_onnxruntime_will_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packages = {
        "": (),
        "cpu": (Package("onnxruntime", None, "1.31"),),
        "gpu": (Package("onnxruntime-gpu", "1.32", "1.31"),),
    }
    monkeypatch.setattr(diagnosis, "packages_by_extra", lambda: packages)
    assert diagnose().problems == ()


def test_a_library_that_does_not_load_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libresq_onnx_ops.so").write_text("no library")
    monkeypatch.setenv("RESQ_ONNX_LIBRARY", str(tmp_path / "libresq_onnx_ops.so"))
    (problem,) = diagnose().problems
    assert problem.startswith("the kernels do not load: ")


def test_what_was_never_installed_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "packages_by_extra", dict)
    (problem,) = diagnose().problems
    assert problem.startswith("resq-onnx itself is not installed; run `pip install")
