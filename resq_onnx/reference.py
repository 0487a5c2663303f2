"""What only PyTorch can tell about a model: second moments, and the logits to agree with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from resq_onnx.calibration.corpus import calibration_sequences
from resq_onnx.calibration.distributed import collect_shared_moments
from resq_onnx.errors import ResqError
from resq_onnx.moments import Moments
from resq_onnx.quiet import quiet_libraries
from resq_onnx.recipe import Recipe
from resq_onnx.source import ModelSource

Progress = Callable[[int, int], None]


class Reference:
    """The original model in PyTorch, float32, for as long as it is needed."""

    def __init__(self, source: ModelSource) -> None:
        """Load the weights: safetensors only, and no code from the model's folder.

        Raises:
            ResqError: transformers cannot load the model or its tokenizer.
        """
        self._source = source
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with quiet_libraries():
            try:
                self._model = AutoModelForCausalLM.from_pretrained(
                    source.folder, dtype=torch.float32, use_safetensors=True, **options
                ).eval()
            except (OSError, ValueError, RuntimeError) as error:
                raise ResqError(f"{source.name}: PyTorch cannot load it: {error}") from error
            try:
                self.tokenizer = AutoTokenizer.from_pretrained(source.folder, **options)
            except (OSError, ValueError, KeyError) as error:
                raise ResqError(
                    f"{source.name}: no tokenizer that transformers can load; put "
                    f"tokenizer.json beside the weights ({error})"
                ) from error

    def moments(self, recipe: Recipe, progress: Progress, warn: Callable[[str], None]) -> Moments:
        """Second moments of the activations on the recipe's calibration text."""
        sequences = calibration_sequences(
            self.tokenizer,
            recipe.calibration,
            recipe.samples,
            recipe.sequence_length,
            recipe.seed,
            warn,
        )
        return collect_shared_moments(self._model, self._source.layout, sequences, progress)

    def text(self, samples: int, length: int) -> NDArray[np.int64]:
        """Some token ids of ordinary text, (samples, length)."""
        return calibration_sequences(self.tokenizer, "python-docs", samples, length, seed=0)

    def logits(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits of token ids (B, S), in one pass: (B, S, vocabulary)."""
        with torch.inference_mode():
            logits = self._model(input_ids=torch.from_numpy(token_ids)).logits
        return np.asarray(logits.float().numpy())
