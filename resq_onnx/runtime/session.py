"""ONNX Runtime sessions, and the plain decoder: a cache that grows by concatenation.

`signature.py` says what a decoder graph takes and gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx import custom_ops
from resq_onnx.errors import ResqError
from resq_onnx.runtime.providers import ASSIGNMENT, CPU, PROVIDERS, check_provider, prepare
from resq_onnx.runtime.signature import read_signature

if TYPE_CHECKING:
    import onnxruntime

NO_CPU_KERNEL: Final = (
    "'tensor(bfloat16)' of input parameter",
    "Could not find an implementation for MixedPrecision",
    "Could not find an implementation for GatedHadamard",
)
"""Of ONNX Runtime's refusal of an operator of ours that has no kernel for its input
(`custom_ops.CPU_DTYPES`): no library has one, or that for CUDA alone."""


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
) -> onnxruntime.InferenceSession:
    """Open an exported model in ONNX Runtime.

    Args:
        path: The .onnx file.
        threads: Threads of one operator; None leaves it to ONNX Runtime (one per core).
        provider: `cpu`, or `cuda` for a GPU.
        kernels: Whether the compiled ai.resq operators run, instead of the functions in the
            file.
        spinning: Whether a thread that waits for its share of an operator stays awake for it.
            That is faster where the cores are free; where others need them, it takes their time.
        optimise: Whether ONNX Runtime may rewrite the graph.
        fold_weights: Whether ONNX Runtime dequantises the weights once, when it opens the
            file, instead of in each run. A token then takes a third to a half of the time, but
            a weight four bytes (SmolLM2-135M: 900 MB instead of 420). It concerns the weights
            that functions read, not those of kernels.
        graph: A serialised model to open in place of the one in the file, such as that one with
            more outputs; what it keeps in other files is looked for beside `path`.

    Raises:
        ResqError: onnxruntime is not installed, a file is missing or broken, `kernels` were not
            built or do not know the file's type, or `cuda` was asked for and the session does not
            run there.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ResqError(
            'to run a model onnxruntime must be installed: pip install "resq-onnx[cpu]"'
        ) from None
    path = Path(path)
    check_is_file(path)
    prepare(provider, kernels=kernels)
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors arrive as exceptions
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if fold_weights:
        # ONNX Runtime keeps a DequantizeLinear for its QDQ fusions, which no per-token scale
        # ever matches, unless it is told that there are none; then it is a constant like others.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if graph is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.absolute().parent)
        )
    if kernels:
        custom_ops.register(options)
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if provider == CPU and kernels and any(words in reason for words in NO_CPU_KERNEL):
            raise ResqError(
                f"{path}: its activations are bfloat16, for which there are no kernels on CPUs: "
                "run the functions in the file (--no-kernels) or use a GPU (--provider cuda), or "
                "export the model with --dtype float16"
            ) from None
        raise ResqError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot open the model: {reason}; "
            f"if the file or its data is damaged, export it again"
        ) from None
    check_provider(session, provider, path)
    return session


def kernels_are_built() -> bool:
    """Whether the library of compiled operators is there: a source tree may lack it."""
    try:
        custom_ops.library_path()
    except ResqError:
        return False
    return True


def check_is_file(path: Path) -> None:
    """Refuse a model that is not there.

    Raises:
        ResqError: `path` is no file.
    """
    if not path.is_file():
        raise ResqError(f"{path}: no such file; give the .onnx file that resq-onnx export wrote")


def model_files(folder: Path) -> list[Path]:
    """The .onnx files of a folder that may be meant by its name: model.onnx alone, or all."""
    usual = folder / "model.onnx"
    return [usual] if usual.is_file() else sorted(folder.glob("*.onnx"))


@dataclass(frozen=True)
class DecoderState:
    """What a decoder knows of the tokens so far.

    Attributes:
        caches: Key and value of layer 0, of layer 1, ...; each (B, G, P, R).
        attention_mask: 1 for a token, 0 for padding, (B, P).
    """

    caches: tuple[NDArray[Any], ...]
    attention_mask: NDArray[np.int64]

    @property
    def length(self) -> int:
        """Number of cached tokens, padding included."""
        return int(self.attention_mask.shape[1])


class Decoder:
    """Runs a decoder graph on new tokens; the state it returns is all it remembers.

    The slow and obvious twin of `BufferedDecoder`: it copies the cache with every call, and
    gives logits for all new tokens if the graph does.

    Attributes:
        session: The ONNX Runtime session.
        signature: What its graph takes and gives.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        """Read the graph's inputs.

        Raises:
            ResqError: The graph is not a decoder.
        """
        self.session = session
        self.signature = read_signature(session)
        self._output_names = ["logits", *self.signature.present]

    def run(
        self,
        input_ids: NDArray[np.int64],
        state: DecoderState | None = None,
        attention_mask: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.float32], DecoderState]:
        """Run the model on new tokens.

        Args:
            input_ids: (B, S), S at least 1.
            state: What the run before returned; None at the beginning.
            attention_mask: (B, P + S), 0 for padding; None if no new token is padding.

        Returns:
            The logits, (B, S, vocabulary) or of the last token, (B, 1, vocabulary), and the
            state with the new tokens in it.

        Raises:
            ValueError: The mask does not have one column for each token.
        """
        feeds = self.feeds(input_ids, state, attention_mask)
        logits, *caches = self.session.run(self._output_names, feeds)
        return logits, DecoderState(tuple(caches), feeds["attention_mask"])

    def feeds(
        self,
        input_ids: NDArray[np.int64],
        state: DecoderState | None = None,
        attention_mask: NDArray[np.int64] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """What `run` gives to the session, by the names of the graph's inputs."""
        batch, new = input_ids.shape
        if state is None:
            state = self._initial_state(batch)
        if attention_mask is None:
            seen = np.ones((batch, new), np.int64)
            attention_mask = np.concatenate([state.attention_mask, seen], axis=1)
        expected = (batch, state.length + new)
        if attention_mask.shape != expected:
            raise ValueError(f"attention_mask is {attention_mask.shape}, it must be {expected}")
        feeds: dict[str, NDArray[Any]] = {
            "input_ids": np.asarray(input_ids, np.int64),
            "attention_mask": np.asarray(attention_mask, np.int64),
            **dict(zip(self.signature.past, state.caches, strict=True)),
        }
        if self.signature.takes_positions:
            # Padding has no position of its own; any valid one does, for nothing looks at it.
            feeds["position_ids"] = np.maximum(attention_mask.cumsum(axis=1) - 1, 0)[:, -new:]
        return feeds

    def _initial_state(self, batch: int) -> DecoderState:
        forms = self.signature.caches
        caches = (np.zeros((batch, form.heads, 0, form.width), form.dtype) for form in forms)
        return DecoderState(tuple(caches), np.zeros((batch, 0), np.int64))
