"""Where a session runs, on the CPU or by CUDA on a GPU; and the refusal of a silent fallback.

ONNX Runtime that cannot use a GPU logs so and opens the session on the CPU. Whoever asked for CUDA
would then take the CPU's speed for the GPU's: here it is an error.
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
"""Products of float32 are to be just that: TF32 keeps 10 bits of each factor, which moves many of
the activations that are rounded to 4 bits afterwards. Other types are not concerned."""

PROVIDERS: Final[dict[str, list[Any]]] = {
    CPU: [CPU_PROVIDER],
    CUDA: [(CUDA_PROVIDER, CUDA_OPTIONS), CPU_PROVIDER],
}
"""By the name that a user gives, ONNX Runtime's, in order of preference: what CUDA has no kernel
for, such as arithmetic on shapes, runs on the CPU."""

INSTALL: Final = (
    'install "resq-onnx[gpu]" in an environment that has no onnxruntime, which "resq-onnx[cpu]" '
    "brings: the two share an import name"
)


ASSIGNMENT: Final = "session.record_ep_graph_assignment_info"
"""Entry of a session's configuration: let it tell which node runs where."""


def prepare(provider: str, *, kernels: bool) -> None:
    """Refuse what cannot be, before a session is opened, and load what a GPU needs.

    Args:
        provider: A key of `PROVIDERS`.
        kernels: Whether our operators are to run by their kernels. On a GPU these are in a
            library of their own; without it the operators would run by the functions in the file.

    Raises:
        ResqError: There is no such provider, onnxruntime was built without CUDA, or our operators
            were.
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
    # CUDA's and cuDNN's own libraries, where they were installed by pip. What it prints of those
    # it does not find is no output of ours.
    with redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls()


def check_provider(session: onnxruntime.InferenceSession, provider: str, path: Path) -> None:
    """Refuse a session that was opened elsewhere than where it was to run.

    Args:
        session: Opened with `ASSIGNMENT` "1".
        provider: Where it was to run.
        path: Its file.

    Raises:
        ResqError: CUDA was asked for, and the session, or one of our operators, runs on the CPU.
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
