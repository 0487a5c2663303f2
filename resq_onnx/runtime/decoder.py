"""Reference decoder, whose KV cache grows by concatenation, and bounds checks for all decoders.

`signature.py` describes the inputs and outputs of a decoder graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.session import running
from resq_onnx.runtime.signature import read_signature

if TYPE_CHECKING:
    import onnxruntime


def check_rewind(length: int, known: int) -> None:
    """Refuse to go back to `length` tokens of the `known` ones.

    Raises:
        ValueError: Fewer tokens are cached.
    """
    if not 0 <= length <= known:
        raise ValueError(f"cannot rewind to {length} tokens: there are {known}")


def check_room(total: int, max_length: int) -> None:
    """Refuse more tokens than a decoder was made for.

    Raises:
        ResqError: `total` is more than `max_length`.
    """
    if total > max_length:
        raise ResqError(
            f"the cache holds {max_length} tokens, and there would be {total}; make the decoder "
            f"with max_length={total} or more"
        )


def check_logits(logits: NDArray[Any], input_ids: NDArray[np.int64]) -> None:
    """Refuse what a damaged graph gives as logits.

    Raises:
        ResqError: They are not (B, S, vocabulary), nor (B, 1, vocabulary), for ids (B, S).
    """
    batch, new = input_ids.shape
    if logits.ndim != 3 or logits.shape[0] != batch or logits.shape[1] not in (1, new):
        raise ResqError(
            f"the model: its logits have shape {logits.shape} for {batch} texts of {new} tokens; "
            "if the file is damaged, export it again"
        )


@dataclass(frozen=True)
class DecoderState:
    """State of a decoder: the KV cache and mask of the tokens so far.

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
    """Runs a decoder graph on new tokens; the returned state is its only memory.

    The slow and obvious twin of `BufferedDecoder`: it copies the cache in every call, and returns
    logits for all new tokens if the graph does.

    Attributes:
        session: The ONNX Runtime session.
        signature: The inputs and outputs of its graph.
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
            state: The state that the previous run returned; None at the beginning.
            attention_mask: (B, P + S), 0 for padding; None if no new token is padding.

        Returns:
            The logits, (B, S, vocabulary) or of the last token, (B, 1, vocabulary), and the
            state with the new tokens in it.

        Raises:
            ValueError: The mask does not have one column for each token.
            ResqError: ONNX Runtime cannot run the graph, or what it gives is no logits.
        """
        feeds = self.feeds(input_ids, state, attention_mask)
        with running():
            logits, *caches = self.session.run(self._output_names, feeds)
        check_logits(logits, input_ids)
        return logits, DecoderState(tuple(caches), feeds["attention_mask"])

    def feeds(
        self,
        input_ids: NDArray[np.int64],
        state: DecoderState | None = None,
        attention_mask: NDArray[np.int64] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Inputs that `run` passes to the session, by name."""
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
            # Padding has no position of its own; any valid one does, because no token attends to
            # it.
            feeds["position_ids"] = np.maximum(attention_mask.cumsum(axis=1) - 1, 0)[:, -new:]
        return feeds

    def _initial_state(self, batch: int) -> DecoderState:
        forms = self.signature.caches
        caches = (np.zeros((batch, form.heads, 0, form.width), form.dtype) for form in forms)
        return DecoderState(tuple(caches), np.zeros((batch, 0), np.int64))


def decode_logits(decoder: Decoder, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits of token ids (B, S), one token at a time through the cache: (B, S, vocabulary)."""
    state, steps = None, []
    for position in range(token_ids.shape[1]):
        logits, state = decoder.run(token_ids[:, position : position + 1], state)
        steps.append(logits)
    return np.concatenate(steps, axis=1)


def prefill_logits(decoder: Decoder, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits of token ids (B, S), computed without a cache: (B, S, vocabulary).

    A graph that computes logits only for the last position runs once for each prefix.
    """
    if not decoder.signature.last_only:
        return decoder.run(token_ids)[0]
    ends = range(1, token_ids.shape[1] + 1)
    return np.concatenate([decoder.run(token_ids[:, :end])[0] for end in ends], axis=1)
