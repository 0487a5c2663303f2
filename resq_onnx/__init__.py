"""Mixed-precision 4/8-bit quantisation of language models, from PyTorch to ONNX.

`export` needs torch and the other packages of the `export` extra; it is imported when it is
first used, so that `import resq_onnx`, and with it everything that runs a model, needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resq_onnx.errors import ResqError
from resq_onnx.recipe import BitSplit, Recipe

if TYPE_CHECKING:
    from resq_onnx.pipeline import export

__version__ = "0.1.0"

__all__ = ["BitSplit", "Recipe", "ResqError", "__version__", "export"]

if not TYPE_CHECKING:  # a type checker would take every name to be an attribute

    def __getattr__(name: str) -> Any:
        if name == "export":
            return _export()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _export() -> Any:
    try:
        return importlib.import_module("resq_onnx.pipeline").export
    except ModuleNotFoundError as error:
        if (error.name or __name__).split(".")[0] == __name__:
            raise
        raise ResqError(
            f"exporting a model needs {error.name}, which is not installed; "
            f"run `pip install resq-onnx[export]`"
        ) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
