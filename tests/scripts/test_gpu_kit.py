from __future__ import annotations

from pathlib import Path

from scripts.gpu_kit import cuda_folders, pinned, requirements

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_kit_has_what_an_export_and_the_tests_need() -> None:
    wanted = requirements(PROJECT)
    names = {one.split(">")[0] for one in wanted}
    assert {"onnxruntime-gpu", "onnx", "onnxscript", "transformers", "pytest"} <= names
    assert "onnxruntime" not in names


def test_packages_of_pytorch_are_left_to_the_machine() -> None:
    names = ["torch", "nvidia-cudnn-cu13", "cuda-bindings", "triton", "numpy", "onnxruntime-gpu"]
    report = {"install": [{"metadata": {"name": name, "version": "1.2"}} for name in names]}
    assert pinned(report) == ["numpy==1.2", "onnxruntime-gpu==1.2"]


def test_libraries_of_cuda_are_found_in_packages_of_any_layout(tmp_path: Path) -> None:
    for place in ("nvidia/cu13/lib/libcudart.so.13", "nvidia/cudnn/lib/libcudnn.so.9"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    (tmp_path / "nvidia/cu13/include").mkdir()
    assert cuda_folders(tmp_path) == [
        str(tmp_path / "nvidia/cu13/lib"),
        str(tmp_path / "nvidia/cudnn/lib"),
    ]
