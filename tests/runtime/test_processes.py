"""Processes of our own, started where another resq_onnx lies."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import resq_onnx
from resq_onnx.evaluation.fresh_process import measure_footprint
from resq_onnx.evaluation.workload import Workload
from resq_onnx.runtime.processes import python_running
from tests.runtime import toy


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a package of our name that cannot be imported."""
    (tmp_path / "resq_onnx").mkdir()
    (tmp_path / "resq_onnx" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_process_finds_packages_where_this_one_does(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "showing.py").write_text(
        "import json, sys, resq_onnx\n"
        "def main(): print(json.dumps([resq_onnx.__file__, sys.argv[1:]]))\n"
    )
    monkeypatch.syspath_prepend("mine")  # relative, as an entry of PYTHONPATH may be
    command = [*python_running("showing"), "an argument"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=os.sep)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [resq_onnx.__file__, ["an argument"]]


def test_a_benchmark_measures_this_package_whatever_the_working_directory(elsewhere: Path) -> None:
    path = toy.save_toy(elsewhere / "toy.onnx")
    assert measure_footprint(path, Workload(6, 4, 1)).peak_bytes > 0
