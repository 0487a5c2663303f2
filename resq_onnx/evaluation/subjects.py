"""What a user may ask to evaluate: an exported .onnx file, or the original model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.checkpoint.hub import hub_name
from resq_onnx.checkpoint.source import open_model
from resq_onnx.errors import ResqError
from resq_onnx.evaluation.models import ExportedModel, LanguageModel, TappedModel
from resq_onnx.files import find_model, holds_original, model_files
from resq_onnx.runtime.decoder import Decoder
from resq_onnx.runtime.providers import CPU
from resq_onnx.runtime.session import create_session
from resq_onnx.runtime.taps import Embedder, TappedDecoder, tapped_session
from resq_onnx.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class HowToRun:
    """How models are run.

    Attributes:
        threads: As for `create_session`, and likewise for PyTorch.
        kernels: As for `create_session`.
        provider: As for `create_session`; PyTorch always runs on the CPU.
        token_by_token: Run exported files one token a call with the cache. PyTorch always runs
            in one pass: it does not quantise, so nothing would differ.
        bos: Whether texts begin with BOS; None for as the model's tokenizer begins them.
        layers: Whether the residual stream is wanted too: the model is then a `LayeredModel`.
    """

    threads: int | None = None
    kernels: bool = True
    provider: str = CPU
    token_by_token: bool = False
    layers: bool = False
    bos: bool | None = None


@dataclass(frozen=True)
class Subject:
    """A model that is ready to be evaluated.

    Attributes:
        path: What the user gave.
        model: Gives logits.
        encode: Turns a text into token ids without special tokens.
        opening: Special tokens with which a text begins.
        bytes: Size of the files it was read from, those of the tokenizer not counted.
    """

    path: Path
    model: LanguageModel
    encode: Callable[[str], Sequence[int] | NDArray[np.int64]]
    opening: tuple[int, ...]
    bytes: int


@contextmanager
def open_subject(path: Path, how: HowToRun) -> Iterator[Subject]:
    """Open an exported model, or a Hugging Face directory or a .gguf file in PyTorch.

    Raises:
        ResqError: It cannot be read or run, is an original model and PyTorch is missing, or is
            a folder that holds both.
    """
    exported = model_files(path) if path.is_dir() else []
    original = hub_name(path) or holds_original(path) or (path.is_dir() and not exported)
    if exported and original:
        raise ResqError(
            f"{path}: holds an original model and an exported one; name the .onnx file, or put "
            f"the other into a folder of its own"
        )
    if original:
        with _original(path, how) as subject:
            yield subject
    else:
        yield _exported(find_model(path), how)


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
        tokenizer.opening(how.bos),
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
        source.check_shapes()  # else PyTorch makes all the layers that config.json asks for
        reference = Reference(source, how.threads)
        opening, size = reference.opening(how.bos), sum(file.stat().st_size for file in files)
        yield Subject(path, reference, reference.encode, opening, size)
