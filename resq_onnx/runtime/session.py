"""Open exported models as ONNX Runtime sessions."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resq_onnx.errors import ResqError, blaming, first_line
from resq_onnx.files import check_is_file
from resq_onnx.graph.data_file import check_data, folder_of_data
from resq_onnx.runtime import library
from resq_onnx.runtime.providers import ASSIGNMENT, CPU, PROVIDERS, check_provider, prepare

if TYPE_CHECKING:
    import onnxruntime

NO_CPU_KERNEL: Final = (
    "'tensor(bfloat16)' of input parameter",
    "Could not find an implementation for MixedPrecision",
    "Could not find an implementation for GatedHadamard",
)
"""Fragments of ONNX Runtime's error for one of our operators that has no CPU kernel for its input
type (`library.CPU_DTYPES`)."""


DATA_FOLDER: Final = "session.model_external_initializers_file_folder_path"
"""Session option: the folder of the external data of a graph that is loaded from memory."""

MOST_SPINNING_US: Final = 1000
"""Microseconds for which a thread that waits for work spins: within a token, more comes earlier. By
default threads spin for much longer, and take a core from the one that works if another program
keeps the others busy."""

MAX_THREADS: Final = 4 * max(os.cpu_count() or 1, 16)
"""Largest number of threads per operator: more than the cores can use only wait for each other, and
thousands take minutes to start."""


def check_threads(threads: int | None) -> None:
    """Reject a number of threads that this machine cannot use.

    Raises:
        ResqError: It is not from 1 to `MAX_THREADS`.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise ResqError(f"threads is {threads}; this machine takes from 1 to {MAX_THREADS}")


def running() -> AbstractContextManager[None]:
    """Say in one line what ONNX Runtime says where a graph cannot be run."""
    damaged = "if the file is damaged, export it again"
    return blaming("the model", "ONNX Runtime cannot run it", damaged)


def create_session(
    path: str | Path,
    threads: int | None = None,
    *,
    provider: str = CPU,
    kernels: bool = True,
    spinning: bool = True,
    optimise: bool = True,
    fold_weights: bool = True,
    graph: bytes | None = None,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Open an exported model in ONNX Runtime.

    Args:
        path: The .onnx file.
        threads: Threads of one operator; None leaves it to ONNX Runtime (one per core).
        provider: `cpu`, or `cuda` for a GPU.
        kernels: Whether the compiled ai.resq operators run, instead of the functions in the
            file.
        spinning: Whether a thread that waits for work spins, for a millisecond, before it sleeps.
            That is faster if the cores are free, and slows down other programs that need them.
        optimise: Whether ONNX Runtime may rewrite the graph.
        fold_weights: Whether ONNX Runtime dequantises the weights once, when it opens the
            file, instead of in each run. A token then takes a third to a half of the time, but each
            weight takes four bytes (SmolLM2-135M: 900 MB instead of 420). This applies to the
            weights that functions read, not to those of kernels.
        graph: A serialised model to open in place of the file, such as the same model with more
            outputs. Its external data is looked up in `folder_of_data`.
        profile: How the name of the file begins to which ONNX Runtime's profiler writes the time of
            each node, at the session's `end_profiling()`; None for no profiler.

    Raises:
        ResqError: onnxruntime is not installed, there are too many threads, a file is missing or
            broken, the data beside it is another export's, `kernels` were not built or do not
            support the file's type, or `cuda` was requested and the session does not run there.
    """
    onnxruntime = _import_onnxruntime()
    path = Path(path)
    check_is_file(path)
    data = check_data(path)
    check_threads(threads)
    prepare(provider, kernels=kernels)
    options = _options(threads, spinning, optimise, fold_weights)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if graph is not None:
        options.add_session_config_entry(DATA_FOLDER, str(folder_of_data(path)))
    if kernels:
        library.register(options)
    if provider != CPU:
        options.add_session_config_entry(ASSIGNMENT, "1")
    try:
        session = onnxruntime.InferenceSession(
            str(path) if graph is None else graph,
            options,
            providers=PROVIDERS[provider],
            enable_fallback=0,  # which would print and open the file again
        )
    except Exception as error:  # its exceptions have no common base but this
        raise _refusal(path, first_line(error), kernels and provider == CPU) from None
    if check_data(path) != data:
        raise ResqError(f"{path}: was replaced while it was opened; open it again")
    check_provider(session, provider, path)
    return session


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ResqError(
            'to run a model onnxruntime must be installed: pip install "resq-onnx[cpu]"'
        ) from None
    return onnxruntime


def _options(threads: int | None, spinning: bool, optimise: bool, fold_weights: bool) -> Any:
    """Session options for the arguments of `create_session`."""
    onnxruntime = _import_onnxruntime()
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors arrive as exceptions
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    else:
        options.add_session_config_entry("session.intra_op.spin_duration_us", f"{MOST_SPINNING_US}")
    if fold_weights:
        # ONNX Runtime keeps a DequantizeLinear for its QDQ fusions, which no per-token scale
        # ever matches, unless it is told that there are none; then it is a constant like others.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _refusal(path: Path, reason: str, on_cpu_kernels: bool) -> ResqError:
    """The error for a model that ONNX Runtime cannot open, with a remedy for this reason."""
    if on_cpu_kernels and any(words in reason for words in NO_CPU_KERNEL):
        return ResqError(
            f"{path}: its activations are bfloat16, for which there are no kernels on CPUs: "
            "run the functions in the file (--no-kernels) or use a GPU (--provider cuda), or "
            "export the model with --dtype float16"
        )
    version = _import_onnxruntime().__version__
    return ResqError(
        f"{path}: ONNX Runtime {version} cannot open the model: {reason}; if the file or its data "
        "is damaged, export it again"
    )
