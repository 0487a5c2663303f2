"""What a user may ask to evaluate: an exported .onnx file, or the original model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.checkpoint.hub import hub_name
from resq_onnx.checkpoint.source import open_model
from resq_onnx.errors import ResqError
from resq_onnx.evaluation.models import ExportedModel, LanguageModel, TappedModel
from resq_onnx.runtime.decoder import Decoder
from resq_onnx.runtime.providers import CPU
from resq_onnx.runtime.session import create_session
from resq_onnx.runtime.taps import Embedder, TappedDecoder, tapped_session
from resq_onnx.runtime.tokenizer import Tokenizer

GGUF: Final = ".gguf"


@dataclass(frozen=True)
class HowToRun:
    """How models are run.

    Attributes:
        threads: As for `create_session`, and likewise for PyTorch.
        kernels: As for `create_session`.
        provider: As for `create_session`; PyTorch always runs on the CPU.
        token_by_token: Run exported files one token a call with the cache. PyTorch always runs
            in one pass: it does not quantise, so nothing would differ.
        layers: Whether the residual stream is wanted too: the model is then a `LayeredModel`.
    """

    threads: int | None = None
    kernels: bool = True
    provider: str = CPU
    token_by_token: bool = False
    layers: bool = False


@dataclass(frozen=True)
class Subject:
    """A model that is ready to be evaluated.

    Attributes:
        path: What the user gave.
        model: Gives logits.
        encode: Turns a text into token ids without special tokens.
        bytes: Size of the files it was read from, those of the tokenizer not counted.
    """

    path: Path
    model: LanguageModel
    encode: Callable[[str], Sequence[int] | NDArray[np.int64]]
    bytes: int


@contextmanager
def open_subject(path: Path, how: HowToRun) -> Iterator[Subject]:
    """Open a Hugging Face directory or a .gguf file in PyTorch, anything else as an .onnx file.

    Raises:
        ResqError: It cannot be read or run, or is an original model and PyTorch is missing.
    """
    if path.is_dir() or path.suffix == GGUF or hub_name(path):
        with _original(path, how) as subject:
            yield subject
    else:
        yield _exported(path, how)


def _exported(path: Path, how: HowToRun) -> Subject:
    where: dict[str, Any] = {"provider": how.provider, "kernels": how.kernels}
    model: LanguageModel
    if how.layers:
        decoder = TappedDecoder(tapped_session(path, how.threads, **where))
        embedder = Embedder(path, how.threads, **where)
        model = TappedModel(decoder, embedder, how.token_by_token)
    else:
        session = create_session(path, how.threads, **where)
        model = ExportedModel(Decoder(session), how.token_by_token)
    tokenizer = Tokenizer.load(path.parent)
    files = (path, path.with_name(f"{path.name}.data"))
    return Subject(
        path,
        model,
        lambda text: tokenizer.encode(text, add_special_tokens=False),
        sum(file.stat().st_size for file in files if file.is_file()),
    )


@contextmanager
def _original(path: Path, how: HowToRun) -> Iterator[Subject]:
    try:
        from resq_onnx.calibration.reference import Reference
    except ModuleNotFoundError as error:
        raise ResqError(
            f"{path}: an original model is run in PyTorch, which needs {error.name}; run "
            f"`pip install resq-onnx[export]`, or give an exported .onnx file"
        ) from error
    with open_model(path) as source:
        files = [path] if path.is_file() else source.folder.glob("*.safetensors")
        reference = Reference(source, how.threads)
        yield Subject(path, reference, reference.encode, sum(file.stat().st_size for file in files))
