"""How likely a continuation is after a context, with what texts share computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resq_onnx.evaluation.perplexity import negative_log_likelihood
from resq_onnx.runtime import PREFILL_SLICE, Decoder, DecoderState


@dataclass(frozen=True)
class Score:
    """What a model thinks of a continuation.

    Attributes:
        log_likelihood: Sum over its tokens of log p(token | all before it), in nats.
        greedy: Whether each of its tokens is the likeliest; of equals, the first.
    """

    log_likelihood: float
    greedy: bool


class Scorer:
    """Scores continuations, and keeps the cache of the last text.

    The answers of a multiple choice share their question, and questions share their examples:
    only what differs from the last text is run. With our kernels, the results are those of
    one pass to the last bit; with the functions in a file, up to their rounding noise.
    """

    def __init__(self, decoder: Decoder) -> None:
        """Take a decoder; a file that computes the last logits alone will do."""
        self._decoder = decoder
        self._read = np.zeros(0, np.int64)  # what the state has read
        self._state: DecoderState | None = None

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> Score:
        """Score a continuation.

        Args:
            context: Token ids, at least one.
            continuation: Token ids, at least one.
        """
        text = np.array([*context, *continuation], np.int64)
        read = text[:-1]  # nothing is predicted from the last token
        first = len(context) - 1  # whose logits predict the continuation's first token
        state = _beginning(self._state, min(_shared(read, self._read), first))
        loss, greedy = 0.0, True
        for ids in self._calls(read, 0 if state is None else state.length, first):
            logits, state = self._decoder.run(ids[None], state)
            rows = min(logits.shape[1], state.length - first)
            if rows > 0:
                targets = text[state.length - rows + 1 : state.length + 1]
                loss += negative_log_likelihood(logits[0, -rows:], targets)
                greedy &= bool((logits[0, -rows:].argmax(axis=1) == targets).all())
        self._read, self._state = read, state
        return Score(-loss, greedy)

    def _calls(
        self, read: NDArray[np.int64], start: int, first: int
    ) -> Iterator[NDArray[np.int64]]:
        """The tokens from `start` on, in the portions in which the model is given them.

        Long texts run in slices, whose activations take less memory. Where a call gives the last
        token's logits alone, each token from `first` on ends a portion.
        """
        sliced = first if self._decoder.signature.last_only else len(read)
        ends = [*range(start + PREFILL_SLICE, sliced, PREFILL_SLICE)]
        ends += range(sliced + 1, len(read))
        return iter(np.split(read[start:], [end - start for end in ends]))


def _shared(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many tokens two texts have in common at their beginning."""
    length = min(len(one), len(other))
    differ = one[:length] != other[:length]
    return int(differ.argmax()) if differ.any() else length


def _beginning(state: DecoderState | None, length: int) -> DecoderState | None:
    """The state after the first `length` tokens."""
    if state is None or length == 0:
        return None
    caches = (np.ascontiguousarray(cache[:, :, :length]) for cache in state.caches)
    return DecoderState(tuple(caches), state.attention_mask[:, :length])
