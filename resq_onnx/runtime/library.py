"""Find the compiled operator library and register it with ONNX Runtime."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from resq_onnx.errors import ResqError, first_line

if TYPE_CHECKING:
    import onnxruntime as ort

LIBRARY_NAME: Final = "libresq_onnx_ops"
"""File name without its suffix, which is .so, .dylib or .dll."""

CPU_DTYPES: Final = ("float32", "float16")
"""Types of activations (`Recipe.dtype`) for which the library has kernels on CPUs. A CPU session
can run other files only through their functions: with these operators registered it rejects
them."""

PACKAGE: Final = __name__.partition(".")[0]
"""Package whose folders contain the library."""

CUDA_LIBRARY_NAME: Final = f"{LIBRARY_NAME}_cuda"
"""The same for the CUDA kernels: a separate library, so that the first one needs no GPU."""


def library_path() -> Path:
    """The operator library that was installed with this package, or that `RESQ_ONNX_LIBRARY` names.

    The environment variable is for custom builds, such as one with sanitizers.

    Raises:
        ResqError: `RESQ_ONNX_LIBRARY` is not a file.
        ResqError: The package runs from a source tree that was never installed, so nothing
            has been compiled.
    """
    override = os.environ.get("RESQ_ONNX_LIBRARY")
    if override:
        if not Path(override).is_file():
            raise ResqError(
                f"RESQ_ONNX_LIBRARY is {override!r}, which is not a file; name a built "
                f"{LIBRARY_NAME}, or unset it to use the one of this package"
            )
        return Path(override)
    # An editable install has two folders: the source tree and the one built into site-packages.
    package = importlib.util.find_spec(PACKAGE)
    entries = (package and package.submodule_search_locations) or []
    folders = [Path(entry) / "lib" for entry in entries]
    for folder in folders:
        found = sorted(folder.glob(f"{LIBRARY_NAME}.*"))
        if found:
            return found[0]
    searched = ", ".join(str(folder) for folder in folders)
    raise ResqError(
        f"{LIBRARY_NAME} is not in {searched}: the package is not installed; "
        f"run `pip install .` or `pip install -e .` in its source tree"
    )


def cuda_library_path() -> Path:
    """The library with the operators' CUDA kernels, which the first library loads by itself.

    Raises:
        ResqError: The first library is missing, or there is none for CUDA beside it.
    """
    first = library_path()
    beside = first.with_name(f"{CUDA_LIBRARY_NAME}{first.suffix}")
    if not beside.is_file():
        raise ResqError(
            f"{beside.name} is not in {beside.parent}: the operators were built for the CPU only, "
            f"and on a GPU would run by the functions in the file, slowly; where nvcc is, run "
            f"`pip install -C cmake.define.RESQ_CUDA=ON .` in the source tree, or run without "
            f"kernels (--no-kernels)"
        )
    return beside


def register(options: ort.SessionOptions) -> None:
    """Let sessions made with `options` use the compiled operators.

    Operators that the library does not hold run as the functions in the model file.

    Raises:
        ResqError: The library was not built (see `library_path`), or `RESQ_ONNX_ISA` names an
            instruction set that cannot run here, or ONNX Runtime cannot load it.
    """
    instruction_set()
    path = library_path()
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:  # its exceptions have no common base but this
        raise ResqError(
            f"{path}: ONNX Runtime cannot load the operators: {first_line(error)}; "
            "install the package again"
        ) from None


def kernels_are_built() -> bool:
    """Whether the library of compiled operators exists: a source tree may lack it."""
    try:
        library_path()
    except ResqError:
        return False
    return True


def kernels_run(dtype: str) -> bool:
    """Whether this machine has kernels for a file whose activations are of this type."""
    return dtype in CPU_DTYPES and kernels_are_built()


def instruction_set() -> str:
    """Name of the instruction set whose kernels run: the best of this CPU, or `RESQ_ONNX_ISA`'s.

    Raises:
        ResqError: The library was not built, or `RESQ_ONNX_ISA` names none that can run here.
    """
    name = _text("resq_onnx_isa")
    if not name:
        raise ResqError(
            f"RESQ_ONNX_ISA is {os.environ.get('RESQ_ONNX_ISA')!r}; it must be one of "
            f"{', '.join(available_instruction_sets())}"
        )
    return name


def available_instruction_sets() -> tuple[str, ...]:
    """Names of the instruction sets this CPU can run and the library has kernels for, best first.

    Raises:
        ResqError: The library was not built.
    """
    return tuple(_text("resq_onnx_available_isas").split(","))


def _text(function: str) -> str:
    """Call a library function that takes no arguments and returns a static string."""
    call = getattr(ctypes.CDLL(str(library_path())), function)
    call.restype = ctypes.c_char_p
    return str(call().decode())
