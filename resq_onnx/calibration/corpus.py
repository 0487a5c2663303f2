"""Calibration texts: where they come from, and how they become token sequences."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError

PYTHON_DOCS: Final = "python-docs"
"""The text that needs neither a file nor a network: Python's language reference."""

DATASETS: Final = {"wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1")}
"""Short names of data sets that need a configuration: their repository and configuration."""

FILE_SUFFIXES: Final = (".txt", ".jsonl")
"""Of a text that is a file, and no name of a data set."""

SEPARATOR: Final = "\n\n"
"""Stands between two documents."""

PIECE_LENGTH: Final = 1 << 16
"""Characters tokenised at a time: tokenizers work on a list of texts in parallel, and the
offsets they keep for each token would need gigabytes for one text of 100 MB."""


class TextTokenizer(Protocol):
    """What is asked of a tokenizer: a Hugging Face tokenizer's call on several texts."""

    def __call__(
        self, text: list[str], *, add_special_tokens: bool, verbose: bool
    ) -> Any:  # a mapping with "input_ids", one list of integers for each text
        """Tokenise several texts."""


def load_text(spec: str) -> list[str]:
    """Read the documents of a calibration text, always in the same order.

    Args:
        spec: A .txt file (one document), a .jsonl file (one document a line, in the field
            "text"), `python-docs` (the language reference that comes with Python), or a
            name that `datasets` can load, such as `wikitext`; `name:configuration` chooses
            a data set's configuration.

    Raises:
        ResqError: The file or data set cannot be read, or has no text.
    """
    if spec == PYTHON_DOCS:
        return [topics[name] for name in sorted(topics)]
    path = Path(spec)
    if path.suffix == ".txt":
        return [_read_file(path)]
    if path.suffix == ".jsonl":
        return _read_json_lines(path)
    if path.exists():
        raise ResqError(f"{spec}: a calibration text must be a .txt or a .jsonl file")
    return _read_dataset(spec)


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
    do not overlap; a seeded choice of these is returned in the order of the text, each behind
    the special tokens with which a text begins.

    Args:
        tokenizer: A Hugging Face tokenizer.
        spec: The text, as `load_text` takes it.
        samples: Number of sequences wanted.
        sequence_length: Tokens per sequence, with those that it begins with.
        seed: Seeds the choice.
        warn: Receives one line if the text has fewer sequences than wanted.
        opening: Special tokens that each sequence begins with.

    Returns:
        Token ids, (samples, sequence_length), with fewer rows if the text has fewer.

    Raises:
        ResqError: The text cannot be read or is shorter than one sequence.
    """
    tokens = tokenise(tokenizer, load_text(spec))
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
    """Windows of a text (samples, tokens), each behind the tokens with which a text begins."""
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
    """Cut a text into parts of at most PIECE_LENGTH characters, in front of a line break.

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


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ResqError(
            f"{path}: not UTF-8 text (byte {error.start}); convert the file to UTF-8"
        ) from None
    except OSError as error:
        raise ResqError(f"{path}: cannot read the calibration text: {error.strerror}") from None


def _read_json_lines(path: Path) -> list[str]:
    documents = []
    # Not splitlines(): JSON strings may hold U+2028, which is no end of a line here.
    for number, line in enumerate(_read_file(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ResqError(f"{where}: not JSON ({error.msg}, column {error.colno})") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise ResqError(f'{where}: must be an object with a string in the field "text"')
        documents.append(record["text"])
    return documents


def _read_dataset(spec: str) -> list[str]:
    try:
        import datasets
    except ImportError:
        raise ResqError(
            f"calibration text {spec!r} is neither a file nor {PYTHON_DOCS}, and to load it as a "
            f"data set `datasets` must be installed: pip install datasets"
        ) from None
    name, _, configuration = spec.partition(":")
    name, default = DATASETS.get(name, (name, ""))
    try:
        rows = datasets.load_dataset(name, configuration or default or None, split="train")
    except Exception as error:  # of the network, the repository or a parser: no common base
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ResqError(
            f"calibration text {spec!r} is no file, and loading it as a data set failed: {reason}; "
            f"give a .txt or .jsonl file, {PYTHON_DOCS}, or a data set within reach"
        ) from None
    if "text" not in rows.column_names:
        raise ResqError(
            f'data set {spec}: has no column "text", only {", ".join(rows.column_names)}; write '
            f"the texts to a .jsonl file and give that"
        )
    return [str(text) for text in rows["text"]]
