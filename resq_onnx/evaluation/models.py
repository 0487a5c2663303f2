"""Language models for evaluation: an interface, and exported files in ONNX Runtime.

The original model in PyTorch, `resq_onnx.calibration.reference`, has the same interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.decoder import Decoder, decode_logits

if TYPE_CHECKING:  # imports onnx, which evaluation does not need otherwise
    from resq_onnx.runtime.taps import Embedder, TappedDecoder

Floats = NDArray[np.float32]
TokenIds = NDArray[np.int64]


class LanguageModel(Protocol):
    """A model that computes logits of token ids."""

    def logits(self, token_ids: TokenIds) -> Floats:
        """Logits of token ids (B, S), each text from its beginning: (B, S, vocabulary)."""


class LayeredModel(LanguageModel, Protocol):
    """A language model that also returns its residual stream."""

    def logits_and_layers(self, token_ids: TokenIds) -> tuple[Floats, Floats]:
        """Logits, and the residual stream (layers + 1, B, S, D): embedding, then each layer."""

    def embeddings(self, token_ids: TokenIds) -> Floats:
        """The residual stream before the first layer of token ids (B, S): (B, S, D)."""


class ExportedModel:
    """An exported file as a language model, in one pass or token by token."""

    def __init__(self, decoder: Decoder, token_by_token: bool = False) -> None:
        """Take the decoder, and whether to run one token per call with the cache.

        Raises:
            ResqError: The model computes logits only for the last position, and is to run in one
                pass.
        """
        _check_logits(decoder, token_by_token)
        self._decoder = decoder
        self._token_by_token = token_by_token

    def logits(self, token_ids: TokenIds) -> Floats:
        """Logits of token ids (B, S), each text from its beginning: (B, S, vocabulary)."""
        if self._token_by_token:
            return decode_logits(self._decoder, token_ids)
        return self._decoder.run(token_ids)[0]


class TappedModel:
    """An exported file as a language model with its residual stream."""

    def __init__(
        self, decoder: TappedDecoder, embedder: Embedder, token_by_token: bool = False
    ) -> None:
        """Take the decoder and the embedder of one file; otherwise as for `ExportedModel`."""
        _check_logits(decoder.decoder, token_by_token)
        self._decoder = decoder
        self._embedder = embedder
        self._token_by_token = token_by_token

    def logits(self, token_ids: TokenIds) -> Floats:
        """Logits of token ids (B, S), each text from its beginning: (B, S, vocabulary)."""
        return self.logits_and_layers(token_ids)[0]

    def logits_and_layers(self, token_ids: TokenIds) -> tuple[Floats, Floats]:
        """Logits, and the residual stream (layers + 1, B, S, D): embedding, then each layer."""
        state, logits, layers = None, [], []
        for ids in _calls(token_ids, self._token_by_token):
            some_logits, some_layers, state = self._decoder.run(ids, state)
            logits.append(some_logits)
            layers.append(some_layers)
        return np.concatenate(logits, axis=1), np.concatenate(layers, axis=2)

    def embeddings(self, token_ids: TokenIds) -> Floats:
        """The residual stream before the first layer of token ids (B, S): (B, S, D)."""
        return self._embedder.run(token_ids)


def _check_logits(decoder: Decoder, token_by_token: bool) -> None:
    if decoder.signature.last_only and not token_by_token:
        raise ResqError(
            "the model computes logits only for the last token of a call (it was exported with "
            "--logits last), but one pass needs those of all tokens; evaluate it with "
            "--token-by-token, or export it with --logits all"
        )


def _calls(token_ids: TokenIds, token_by_token: bool) -> list[TokenIds]:
    return np.split(token_ids, token_ids.shape[1], axis=1) if token_by_token else [token_ids]
