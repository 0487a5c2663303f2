from __future__ import annotations

import ctypes
import importlib.metadata
import subprocess
import sys
import types

import pytest

import resq_onnx
import resq_onnx.runtime
from resq_onnx.runtime import library

HEAVY = ("torch", "transformers", "onnxscript", "datasets", "accelerate")
"""What running a model must not need: the packages of the `export` extra."""

MODULES_THAT_RUN_MODELS = (
    "resq_onnx",
    "resq_onnx.cli",
    "resq_onnx.runtime.library",
    "resq_onnx.evaluation",
    "resq_onnx.runtime",
    "resq_onnx.serving.server",
    "resq_onnx.evaluation.side_by_side",
)


def test_the_public_list_is_this_one() -> None:
    assert resq_onnx.__all__ == [
        "BitSplit",
        "Recipe",
        "Resources",
        "ResqError",
        "__version__",
        "create_session",
        "export",
        "library_path",
        "read_recipe",
        "register",
        "rewrite",
    ]


@pytest.mark.parametrize("module", [resq_onnx, resq_onnx.runtime])
def test_what_is_listed_is_public(module: types.ModuleType) -> None:
    listed = [name for name in dir(module) if not name.startswith("__")]
    assert listed == sorted(name for name in module.__all__ if not name.startswith("__"))
    assert {"__all__", "__doc__", "__file__"} <= set(dir(module))


def test_everything_public_can_be_imported_at_once_though_some_packages_are_absent() -> None:
    without = "import sys; sys.modules['torch'] = None"
    code = f"{without}; from resq_onnx import *; print(create_session, export, Recipe)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("<function create_session")


def test_public_functions_are_those_of_their_modules() -> None:
    from resq_onnx.pipeline import export, rewrite
    from resq_onnx.runtime import create_session

    assert resq_onnx.export is export
    assert resq_onnx.rewrite is rewrite
    assert resq_onnx.create_session is create_session
    assert resq_onnx.register is library.register
    assert resq_onnx.library_path is library.library_path


def test_importing_the_package_imports_none_of_what_it_runs_on() -> None:
    code = "import sys, resq_onnx; print({'numpy', 'onnx', 'onnxruntime'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "set()"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'resq_onnx' has no attribute 'exprot'"):
        _ = resq_onnx.exprot  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", MODULES_THAT_RUN_MODELS)
def test_running_a_model_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


def test_export_without_its_packages_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import resq_onnx; resq_onnx.export('a', 'b')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = result.stderr.splitlines()[-1]
    assert "ResqError: exporting a model needs torch, which is not installed" in last
    assert "resq-onnx[export]" in last


def test_the_installed_version_is_the_version_of_the_source() -> None:
    assert importlib.metadata.version("resq-onnx") == resq_onnx.__version__


def test_the_library_is_of_the_same_version() -> None:
    loaded = ctypes.CDLL(str(library.library_path()))
    loaded.resq_onnx_version.restype = ctypes.c_char_p
    assert loaded.resq_onnx_version().decode() == resq_onnx.__version__
