from __future__ import annotations

import json

import resq_onnx
from tests.command_line import error_line, run_process, run_successfully

WITHOUT = "import sys\n" + "\n".join(
    f"sys.modules['{name}'] = None" for name in ("torch", "transformers", "onnxruntime", "datasets")
)
"""Code that makes packages impossible to import which only some commands need."""


def test_the_doctor_lists_what_is_there_and_finds_no_fault_with_it() -> None:
    printed = run_successfully("doctor").stdout.splitlines()
    rows = {line[:15].rstrip(): line[15:] for line in printed[:-1]}
    assert printed[-1] == "Models can be run."
    assert rows["resq-onnx"].startswith(f"{resq_onnx.__version__}, ")
    assert rows["To run"].startswith("onnxruntime")
    assert "torch 2." in rows["To export"]
    assert "RESQ_ONNX_ISA" in rows["Kernels"]
    assert "CPUExecutionProvider" in rows["Providers"]


def test_the_doctor_needs_none_of_what_may_be_absent_and_says_how_to_install_it() -> None:
    result = run_process("doctor", before=WITHOUT)
    assert result.returncode == 1
    assert 'To run         no onnxruntime: pip install "resq-onnx[cpu]"' in result.stdout
    assert 'no transformers: pip install "resq-onnx[export]"' in result.stdout
    line = error_line(result.stderr)
    assert line.startswith("Error: no model can be run: no onnxruntime; run `pip install")


def test_the_doctor_speaks_json_with_a_fault_too() -> None:
    result = run_process("doctor", "--json", before=WITHOUT)
    assert result.returncode == 1
    found = json.loads(result.stdout)
    assert found["packages"]["cpu"][0]["version"] is None
    assert found["problems"][0].startswith("no onnxruntime")
    assert found["kernels"]["available"]
    assert json.loads(run_successfully("doctor", "--json").stdout)["problems"] == []


def test_an_instruction_set_that_is_none_is_why_no_model_can_be_run() -> None:
    result = run_process("doctor", before="import os; os.environ['RESQ_ONNX_ISA'] = 'mmx'")
    assert result.returncode == 1
    assert "Kernels        none\n" in result.stdout
    assert "RESQ_ONNX_ISA is 'mmx'; it must be one of" in error_line(result.stderr)
