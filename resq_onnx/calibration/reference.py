"""Reference model in PyTorch: second moments, logits and layer outputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn
from transformers import AutoTokenizer

from resq_onnx.checkpoint.quiet import quiet_libraries
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError, blaming
from resq_onnx.runtime.opening import opening_of
from resq_onnx.runtime.tokenizer_file import check_tokenizer_file
from resq_onnx.tracing.configuration import load_config

Progress = Callable[[int, int], None]

TOKENIZER: Final = "tokenizer.json"
PIECES: Final = "tokenizer.model"

RANK: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\s")
"""How a tokenizer.model of tiktoken begins; transformers says what it takes to read one."""

REMEDY: Final = "put the right tokenizer.json beside the weights"

LOADING: Final[dict[str, Any]] = {"local_files_only": True, "trust_remote_code": False}
"""Options with which transformers loads a folder."""


def load_tokenizer(source: ModelSource) -> Any:
    """The Hugging Face tokenizer of a model.

    Raises:
        ResqError: transformers cannot load it, or it is not one.
    """
    wrong = "no tokenizer that transformers can load"
    with quiet_libraries(), blaming(source.name, wrong, REMEDY):
        check_tokenizer_file(source.folder / TOKENIZER, REMEDY)
        _check_pieces(source.folder)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, **LOADING)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ResqError(
            f"{source.name}: its tokenizer is not one that tokenizer.json can hold "
            f"({type(tokenizer).__name__}), and exported models need that; {REMEDY}"
        )
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float):
        raise ResqError(
            f"{source.name}: tokenizer_config.json says model_max_length is {longest!r}; it must "
            f"be a number of tokens"
        )
    # What transformers makes of a folder without the files of a tokenizer.
    with blaming(source.name, wrong, REMEDY):
        tokens = tokenizer(["a"], add_special_tokens=False)["input_ids"][0]
    if not tokens:
        raise ResqError(f"{source.name}: its tokenizer has no tokens for a text; {REMEDY}")
    return tokenizer


def _check_pieces(folder: Path) -> None:
    """Refuse a damaged tokenizer.model, which transformers would take for one of tiktoken.

    Raises:
        ResqError: Neither tokenizer.json is there, nor a tokenizer.model that can be read.
    """
    path = folder / PIECES
    if (folder / TOKENIZER).exists() or not path.is_file() or RANK.match(path.read_bytes()):
        return
    from sentencepiece import SentencePieceProcessor

    with blaming(path, "not a SentencePiece model", "download it again"):
        SentencePieceProcessor(model_file=str(path))


def write_tokenizer(source: ModelSource, folder: Path) -> None:
    """Write tokenizer.json if the model has its tokenizer only in another form.

    Raises:
        ResqError: As for `load_tokenizer`.
    """
    if not (source.folder / TOKENIZER).exists():
        load_tokenizer(source).backend_tokenizer.save(str(folder / TOKENIZER))


def text_opening(tokenizer: Any, source: ModelSource, bos: bool | None) -> tuple[int, ...]:
    """Special tokens with which a Hugging Face tokenizer begins a text.

    Raises:
        ResqError: BOS is requested and the tokenizer has none.
    """

    def encode(text: str, special: bool) -> list[int]:
        ids: list[int] = tokenizer([text], add_special_tokens=special)["input_ids"][0]
        return ids

    return opening_of(encode, tokenizer.bos_token_id, bos, source.name)


def load_model(source: ModelSource, dtype: torch.dtype = torch.float32) -> Any:
    """The whole model in PyTorch: safetensors only, and no code from its folder.

    Raises:
        ResqError: transformers cannot load it.
    """
    damaged = "correct config.json, or download the model again"
    with quiet_libraries(), blaming(source.name, "PyTorch cannot load it", damaged):
        return (
            getattr(transformers, source.layout.family.auto_class)
            .from_pretrained(
                source.folder,
                dtype=dtype,
                use_safetensors=True,
                config=load_config(source),
                **LOADING,
            )
            .eval()
        )


class Reference:
    """The original model in PyTorch, float32, for as long as it is needed."""

    def __init__(self, source: ModelSource, threads: int | None = None) -> None:
        """Load the weights: safetensors only, and no code from the model's folder.

        Args:
            source: The model.
            threads: Threads of PyTorch in this process from now on; None leaves them as they are.

        Raises:
            ResqError: transformers cannot load the model or its tokenizer.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self._source = source
        self.tokenizer = load_tokenizer(source)
        self.model = load_model(source)

    def opening(self, bos: bool | None = None) -> tuple[int, ...]:
        """Special tokens with which a text begins; `bos` as for a recipe.

        Raises:
            ResqError: BOS is requested and the tokenizer has none.
        """
        return text_opening(self.tokenizer, self._source, bos)

    def encode(self, text: str) -> NDArray[np.int64]:
        """Token ids of a text, without special tokens, (tokens,)."""
        ids = self.tokenizer([text], add_special_tokens=False, verbose=False)["input_ids"][0]
        return np.asarray(ids, np.int64)

    def logits(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of token ids (B, S), in one pass: (B, S, vocabulary)."""
        with torch.inference_mode():
            logits = self.model(input_ids=torch.from_numpy(token_ids)).logits
        return np.asarray(logits.float().numpy())

    def logits_and_layers(
        self, token_ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits, and the residual stream (layers + 1, B, S, D): embedding, then each layer."""
        stream: list[NDArray[np.float32]] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            stream.append(hidden.float().numpy().copy())  # the model may modify it in place

        family = self._source.layout.family
        layers = [family.layer.format(layer) for layer in range(self._source.layout.num_layers)]
        hooks = [
            self.model.get_submodule(name).register_forward_hook(keep)
            for name in (family.embedding, *layers)
        ]
        try:
            logits = self.logits(token_ids)
        finally:
            for hook in hooks:
                hook.remove()
        return logits, np.stack(stream)

    def embeddings(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The residual stream before the first layer of token ids (B, S): (B, S, D)."""
        module = self.model.get_submodule(self._source.layout.family.embedding)
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(token_ids)).float().numpy())
