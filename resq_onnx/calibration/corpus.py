"""Calibration corpus: tokenise a text and choose sequences from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.texts import ChatTemplate, Messages, load_text
from resq_onnx.errors import ResqError, blaming

SEPARATOR: Final = "\n\n"
"""Separator between two documents."""

PIECE_LENGTH: Final = 1 << 16
"""Characters tokenised at a time: tokenizers work on a list of texts in parallel, and the
offsets they keep for each token would need gigabytes for one text of 100 MB."""


class TextTokenizer(Protocol):
    """The required interface of a tokenizer: a Hugging Face tokenizer's call on several texts."""

    def __call__(
        self, text: list[str], *, add_special_tokens: bool, verbose: bool
    ) -> Any:  # a mapping with "input_ids", one list of integers for each text
        """Tokenise several texts."""


def calibration_sequences(
    tokenizer: TextTokenizer,
    spec: str,
    samples: int,
    sequence_length: int,
    seed: int,
    warn: Callable[[str], None] = warnings.warn,
    opening: Sequence[int] = (),
) -> NDArray[np.int64]:
    """Choose token sequences of equal length from a calibration text.

    The documents are joined, tokenised without special tokens and cut into windows that
    do not overlap; a seeded choice of these is returned in the order of the text, each preceded by
    the special tokens with which a text begins.

    Args:
        tokenizer: A Hugging Face tokenizer.
        spec: The text, as `load_text` takes it.
        samples: Number of sequences wanted.
        sequence_length: Tokens per sequence, including the opening ones.
        seed: Seeds the choice.
        warn: Receives one line if the text has fewer sequences than wanted.
        opening: Special tokens that each sequence begins with.

    Returns:
        Token ids, (samples, sequence_length), with fewer rows if the text has fewer.

    Raises:
        ResqError: The text cannot be read or is shorter than one sequence.
    """
    tokens = tokenise(tokenizer, load_text(spec, chat=_chat_template(tokenizer, spec)))
    length = max(sequence_length - len(opening), 1)
    windows = len(tokens) // length
    if windows == 0:
        possible = len(tokens) + len(opening)
        remedy = f"--sequence-length {possible} or less, or " if len(tokens) else ""
        raise ResqError(
            f"calibration text {spec} has {len(tokens)} tokens, less than one sequence of "
            f"{sequence_length}; choose {remedy}a longer text"
        )
    if windows < samples:
        warn(
            f"calibration text {spec} has only {windows} sequences of {sequence_length} tokens, "
            f"{samples} were asked for; all {windows} are used"
        )
    chosen = choose_windows(windows, samples, seed)
    return behind(opening, tokens[: windows * length].reshape(windows, length)[chosen])


def behind(opening: Sequence[int], windows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Windows of a text (samples, tokens), each preceded by the opening tokens."""
    first = np.tile(np.asarray(opening, np.int64), (len(windows), 1))
    return np.concatenate([first, windows], axis=1)


def choose_windows(windows: int, samples: int, seed: int) -> NDArray[np.int64]:
    """A seeded choice of windows of a text, or all of them; ascending, (at most samples,)."""
    chosen = np.random.default_rng(seed).choice(windows, min(samples, windows), replace=False)
    return np.sort(chosen)


def tokenise(tokenizer: TextTokenizer, documents: Sequence[str]) -> NDArray[np.int64]:
    """The documents, joined, as token ids without special ones, (tokens,)."""
    pieces = list(_pieces(SEPARATOR.join(documents)))
    if not pieces:
        return np.empty(0, np.int64)
    # verbose=False: no warning that the text is longer than what the model can read.
    encoded = tokenizer(pieces, add_special_tokens=False, verbose=False)
    return np.concatenate([np.asarray(ids, np.int64) for ids in encoded["input_ids"]])


def _pieces(text: str) -> Iterator[str]:
    """Cut a text into parts of at most PIECE_LENGTH characters, before line breaks.

    Tokenizers never join the end of a word to a line break, so almost every token is the
    one that the whole text would give.
    """
    start = 0
    while start < len(text):
        end = start + PIECE_LENGTH
        if end < len(text):
            breaks = (text.rfind(mark, start + 1, end) for mark in ("\n", " "))
            end = next((place for place in breaks if place > 0), end)
        yield text[start:end]
        start = end


def _chat_template(tokenizer: Any, spec: str) -> ChatTemplate:
    """A function that renders a chat with a Hugging Face tokenizer."""

    def write(messages: Messages) -> str:
        with blaming(spec, "the model's chat template refuses a chat in it", "give texts instead"):
            return str(tokenizer.apply_chat_template(list(messages), tokenize=False))

    return write
