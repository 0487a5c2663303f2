"""Mixed-precision 4/8-bit quantisation of language models, from PyTorch to ONNX.

Names are imported on first use: `export` needs torch and the rest of the `export` extra,
`create_session` needs onnxruntime. So `import resq_onnx` is instant, and running a model needs no
torch.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.recipe import BitSplit, Recipe
from resq_onnx.resources import Resources

if TYPE_CHECKING:
    from resq_onnx.files.recipe_file import read_recipe
    from resq_onnx.pipeline import export, rewrite
    from resq_onnx.runtime.library import library_path, register
    from resq_onnx.runtime.session import create_session

for _variable in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    # ONNX Runtime and huggingface_hub read them when they are imported. This module is imported
    # before every other one here, so this is early enough. A value set by the user stays.
    os.environ.setdefault(_variable, "1")

__version__ = "0.1.0"

__all__ = [
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

_LAZY: Final = {
    "create_session": "resq_onnx.runtime.session",
    "export": "resq_onnx.pipeline",
    "library_path": "resq_onnx.runtime.library",
    "read_recipe": "resq_onnx.files.recipe_file",
    "register": "resq_onnx.runtime.library",
    "rewrite": "resq_onnx.pipeline",
}
"""Maps each public name to its module, which is imported on first use."""

if not TYPE_CHECKING:  # a type checker would take every name to be an attribute

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return _imported(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _imported(name: str) -> Any:
    """The named object; if its packages are missing, a function that raises an error when called.

    All listed names can then be inspected, as notebooks and `import *` do.
    """
    try:
        return getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or __name__).split(".")[0] == __name__:
            raise
        return _refusing(name, error)


def _refusing(name: str, absent: ModuleNotFoundError) -> Callable[..., None]:
    def refuse(*_arguments: Any, **_named: Any) -> None:
        raise ResqError(
            f"exporting a model needs {absent.name}, which is not installed; "
            f'run pip install "resq-onnx[export]"'
        ) from absent

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
