"""Log-likelihoods of continuations, with a shared cache for common beginnings.

Many texts of a benchmark share a beginning: the same examples, and one question with each of its
answers. So texts are read in the order of their tokens, and each one reuses the cache of the
beginning that it shares with the previous one. Our kernels compute each token independently of the
other tokens in a call, so the results are bit-identical to one pass over each text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.perplexity import negative_log_likelihood
from resq_onnx.runtime import PREFILL_SLICE, Decoder, DecoderState


@dataclass(frozen=True)
class Score:
    """Score of a continuation.

    Attributes:
        log_likelihood: Sum over its tokens, in nats.
        greedy: Whether each of its tokens is the most likely one (the first one on a tie).
    """

    log_likelihood: float
    greedy: bool


@dataclass(frozen=True)
class Question:
    """A text whose last tokens are scored.

    Attributes:
        read: Tokens that the model reads: the text without its last token.
        targets: The continuation, which the last logits of `read` predict, one each.
    """

    read: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], max_length: int) -> Question:
        """Create a question with the longest end of the context that the model can read.

        Raises:
            ResqError: The context is empty, or the continuation alone is too long.
        """
        if len(continuation) > max_length:
            raise ResqError(
                f"a continuation has {len(continuation)} tokens, but the model reads at most "
                f"{max_length}; omit this task, or set a larger max_length if the model "
                f"has the positions"
            )
        if not context:
            raise ResqError("a continuation cannot be scored without a token before it")
        tokens = (*context, *continuation)
        return cls(tokens[-(max_length + 1) : -1], tuple(continuation))


class Scorer:
    """Scores continuations; keeps the cache of the last text."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._read: tuple[int, ...] = ()
        self._state: DecoderState | None = None

    def scores(self, questions: Sequence[Question]) -> Iterator[tuple[int, Score]]:
        """Score all questions, in an order that shares the most; yields index and score."""
        for index in sorted(range(len(questions)), key=lambda index: questions[index].read):
            yield index, self.score(questions[index])

    def score(self, question: Question) -> Score:
        """Score one continuation."""
        if not question.targets:
            return Score(0.0, True)
        logits = self._logits(question.read, len(question.targets))
        targets = np.array(question.targets, np.int64)
        return Score(
            -negative_log_likelihood(logits, targets),
            bool((logits.argmax(axis=1) == targets).all()),
        )

    def _logits(self, read: tuple[int, ...], rows: int) -> NDArray[np.float32]:
        """Logits after each of the last `rows` tokens, (rows, vocabulary)."""
        first = len(read) - rows
        shared = min(_common(self._read, read), first)
        state = None if self._state is None else _first(self._state, shared)
        self._read, self._state = (), None  # after an error, no cache of another text is left
        for start in range(shared, first, PREFILL_SLICE):
            _, state = self._run(read[start : min(start + PREFILL_SLICE, first)], state)
        step = 1 if self._decoder.signature.last_only else PREFILL_SLICE
        found = []
        for start in range(first, len(read), step):
            logits, state = self._run(read[start : start + step], state)
            found.append(logits)
        self._read, self._state = read, state
        return np.concatenate(found)

    def _run(
        self, ids: Sequence[int], state: DecoderState | None
    ) -> tuple[NDArray[np.float32], DecoderState]:
        logits, state = self._decoder.run(np.array([ids], np.int64), state)
        return logits[0], state


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning of two texts."""
    length = min(len(one), len(other))
    return next((place for place in range(length) if one[place] != other[place]), length)


def _first(state: DecoderState, tokens: int) -> DecoderState:
    """The state cut to its first tokens."""
    caches = tuple(np.ascontiguousarray(cache[:, :, :tokens]) for cache in state.caches)
    return DecoderState(caches, state.attention_mask[:, :tokens])
