"""Execution providers: the CPU, or CUDA on a GPU; a silent fallback to the CPU is an error.

If ONNX Runtime cannot use a GPU, it logs a warning and falls back to the CPU. A user who requested
CUDA would then mistake the CPU's speed for the GPU's.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.graph.names import DOMAIN
from resq_onnx.runtime import library

if TYPE_CHECKING:
    import onnxruntime

CPU: Final = "cpu"
CUDA: Final = "cuda"

CUDA_PROVIDER: Final = "CUDAExecutionProvider"
CPU_PROVIDER: Final = "CPUExecutionProvider"

CUDA_OPTIONS: Final = {"use_tf32": "0"}
"""Compute float32 products in full precision: TF32 keeps 10 bits of each factor, which changes many
of the activations that are then rounded to 4 bits. Other types are not affected."""

PROVIDERS: Final[dict[str, list[Any]]] = {
    CPU: [CPU_PROVIDER],
    CUDA: [(CUDA_PROVIDER, CUDA_OPTIONS), CPU_PROVIDER],
}
"""ONNX Runtime's providers for each name on our command line, in order of preference: operators
without a CUDA kernel, such as arithmetic on shapes, run on the CPU."""

INSTALL: Final = (
    'install "resq-onnx[gpu]" in an environment that has no onnxruntime, which "resq-onnx[cpu]" '
    "brings: the two share an import name"
)


ASSIGNMENT: Final = "session.record_ep_graph_assignment_info"
"""Session configuration entry that records which provider runs each node."""


def prepare(provider: str, *, kernels: bool) -> None:
    """Check that a provider is available before a session is opened, and load the GPU's libraries.

    Args:
        provider: A key of `PROVIDERS`.
        kernels: Whether our operators run as compiled kernels. Those for GPUs are in a separate
            library; without it the operators would run as functions in the file.

    Raises:
        ResqError: The provider is unknown, or onnxruntime or our operators were built without CUDA.
    """
    if provider not in PROVIDERS:
        raise ResqError(f"provider is {provider!r}; it must be one of {', '.join(PROVIDERS)}")
    if provider == CPU:
        return
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise ResqError(
            f"the installed onnxruntime {onnxruntime.__version__} has no {CUDA_PROVIDER}: "
            f"{INSTALL}; or run on the CPU (--provider cpu)"
        )
    if kernels:
        library.cuda_library_path()
    # CUDA's and cuDNN's own libraries, where they were installed by pip. Its messages about missing
    # ones must not mix with our output.
    with redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls()


def check_provider(session: onnxruntime.InferenceSession, provider: str, path: Path) -> None:
    """Reject a session that does not run on the requested provider.

    Args:
        session: Opened with `ASSIGNMENT` "1".
        provider: The requested provider.
        path: The session's file, for error messages.

    Raises:
        ResqError: CUDA was requested, and the session, or one of our operators, runs on the CPU.
    """
    if provider == CPU:
        return
    found = session.get_providers()
    if CUDA_PROVIDER not in found:
        raise ResqError(
            f"{path}: CUDA was asked for, and ONNX Runtime fell back to {', '.join(found)}: "
            f"see whether nvidia-smi shows a GPU and a driver new enough, and whether CUDA and "
            f'cuDNN are installed (`pip install "onnxruntime-gpu[cuda,cudnn]"` brings them); or '
            f"run on the CPU (--provider cpu)"
        )
    elsewhere = sorted(
        {
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
            if node.domain == DOMAIN and part.ep_name != CUDA_PROVIDER
        }
    )
    if elsewhere:
        raise ResqError(
            f"{path}: CUDA was asked for, and {', '.join(elsewhere)} would run on the CPU: "
            f"{library.cuda_library_path()} could not be loaded, or has no kernels for these "
            f"types; build it again (`pip install -C cmake.define.RESQ_CUDA=ON .`), or run without "
            f"kernels (--no-kernels)"
        )


def runs_on_cuda(session: onnxruntime.InferenceSession) -> bool:
    """Whether a session runs on a GPU."""
    return CUDA_PROVIDER in session.get_providers()
