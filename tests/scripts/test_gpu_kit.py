from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from scripts.gpu_kit import cuda_folders, install, pinned, requirements
from scripts.pieces import split

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


@pytest.mark.slow
def test_a_kit_is_installed_before_the_packages_of_the_machine(tmp_path: Path) -> None:
    """A wheel in pieces that takes the place of numpy; ml_dtypes is the machine's own."""
    split([wheel_of(tmp_path, "numpy", "kit = True")], tmp_path / "kit", piece_bytes=100)
    python = install(tmp_path / "kit")
    code = "import numpy, importlib.util as u; print(numpy.kit, bool(u.find_spec('ml_dtypes')))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def wheel_of(folder: Path, name: str, content: str) -> Path:
    """A wheel of one module."""
    wheel, facts = folder / f"{name}-9.9-py3-none-any.whl", f"{name}-9.9.dist-info"
    files = {
        f"{name}.py": content,
        f"{facts}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n",
        f"{facts}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{facts}/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel
