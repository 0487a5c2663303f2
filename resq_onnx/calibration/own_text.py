"""Calibration text that the float model writes itself: continuations, and answers to prompts.

A model's own text is of the kinds that it was trained for, whichever these are. It is written in
short pieces, many at a time: that reads the weights less often, and pieces of a few dozen tokens
show more subjects than one long text. They are joined and cut into sequences as documents are.

The whole model is in memory while it writes, unlike in any other step of an export.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.calibration.corpus import SEPARATOR, behind
from resq_onnx.calibration.heap import give_back
from resq_onnx.calibration.memory import fitting_type
from resq_onnx.calibration.prompts import make_prompts
from resq_onnx.calibration.reference import load_model
from resq_onnx.calibration.working import torch_device
from resq_onnx.calibration.writing import (
    CannotWriteError,
    Row,
    TooSlowError,
    Vocabulary,
    write_rows,
)
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError, blaming
from resq_onnx.progress import Progress
from resq_onnx.resources import Resources

Advance = Callable[[int, int], None]

ROWS: Final = 16
"""Pieces that are written at a time. More read the weights less often; the cache of so many takes a
tenth of the memory that the rest of an export of SmolLM2 does."""

PIECE: Final = 128
"""Tokens of a piece: a prompt in a template may take 50 of them."""

CHAT_SHARE: Final = 0.5
"""Share of the pieces that are answers to prompts, if the model has a chat template."""

TOKENS_PER_PROMPT: Final = 32
"""About the fewest tokens of a prompt and its answer: so many prompts are prepared."""

SECONDS_PER_PARAMETER: Final = 0.8e-6
"""Processor time that the rest of an export takes, about (docs/scale.md): writing may take as much.
It is that of all threads together, which depends little on what else runs on the machine."""

LEAST_SECONDS: Final = 120.0
"""Processor time that writing may take for any model."""


def own_text(
    source: ModelSource,
    tokenizer: Any,
    shape: tuple[int, int],
    opening: Sequence[int],
    seed: int,
    resources: Resources,
    progress: Progress,
) -> NDArray[np.int64]:
    """Let a model write calibration sequences.

    Args:
        source: The model.
        tokenizer: Its Hugging Face tokenizer.
        shape: Number of sequences, and tokens of each.
        opening: Special tokens that each sequence begins with.
        seed: Seeds first tokens, prompts and draws.
        resources: Device and memory.
        progress: Receives progress updates.

    Returns:
        Token ids, of that shape.

    Raises:
        CannotWriteError: It would take too much memory, or too long.
        ResqError: PyTorch cannot load the model.
    """
    layout, device = source.layout, torch_device(resources.device)
    samples, length = shape
    wanted = samples * max(length - len(opening), 1)
    piece = max(min(PIECE, layout.max_positions), len(opening) + 1)
    count = math.ceil(wanted / (piece - len(opening)))
    most = LEAST_SECONDS + SECONDS_PER_PARAMETER * source.float32_bytes / 4
    dtype = fitting_type(source, (min(ROWS, count), piece), device, resources.max_memory)
    progress.step("Writing calibration text")
    vocabulary = Vocabulary.of(tokenizer, layout.vocab_size)
    rows = make_rows(tokenizer, vocabulary, count, piece, opening, seed)
    asked = (rows, piece, vocabulary, seed, most, progress.advance)
    written = _written(load_model(source, dtype).to(device), *asked)
    give_back()
    return behind(opening, joined(tokenizer, written, rows, opening)[:wanted].reshape(samples, -1))


def _written(
    model: Any,
    rows: Sequence[Row],
    piece: int,
    vocabulary: Vocabulary,
    seed: int,
    most: float,
    advance: Advance,
) -> list[NDArray[np.int64]]:
    """The pieces, (piece,) each, some at a time; `most` seconds for all of them."""
    batches = np.array_split(np.arange(len(rows)), math.ceil(len(rows) / ROWS))
    written: list[NDArray[np.int64]] = []
    for number, batch in enumerate(batches):
        drawing = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        try:
            found = write_rows(
                *(model, [rows[i] for i in batch], piece, vocabulary, drawing),
                most_seconds=most / len(batches),
                advance=_part(advance, number, len(batches)),
            )
        except TooSlowError as error:
            needed = error.args[0] * len(batches) / 60
            raise CannotWriteError(
                f"writing it would take {needed:.0f} minutes of processor time"
            ) from None
        written.extend(found)
    return written


def _part(advance: Advance, part: int, parts: int) -> Advance:
    """Progress of one of several equal parts, as progress of the whole."""
    return lambda done, total: advance(part * total + done, parts * total)


def make_rows(
    tokenizer: Any,
    vocabulary: Vocabulary,
    count: int,
    piece: int,
    opening: Sequence[int],
    seed: int,
) -> list[Row]:
    """What each piece is given: a random first token, or prompts in the model's chat template.

    Args:
        tokenizer: A Hugging Face tokenizer.
        vocabulary: Of the model.
        count: Number of pieces.
        piece: Tokens of each.
        opening: Special tokens with which a text begins.
        seed: Seeds the choices.

    Raises:
        CannotWriteError: The tokenizer is not one for this model, or its template refuses a prompt.
    """
    if not len(vocabulary.ordinary):
        raise CannotWriteError("its tokenizer has no ordinary tokens")
    random = np.random.default_rng(seed)
    chats = round(CHAT_SHARE * count) if tokenizer.chat_template else 0
    first = random.choice(vocabulary.ordinary, count - chats)
    rows = [Row(iter([(*opening, int(token))]), may_end=False) for token in first]
    if chats:
        each = max(piece // TOKENS_PER_PROMPT, 1)
        prompts = rendered(tokenizer, make_prompts(chats * each, seed), len(vocabulary.ends))
        rows += [Row(_in_turn(prompts, i * each), may_end=True) for i in range(chats)]
    return rows


def _in_turn(prompts: Sequence[Sequence[int]], first: int) -> Iterator[Sequence[int]]:
    """The prompts from one on, again and again."""
    return itertools.islice(itertools.cycle(prompts), first, None)


def rendered(tokenizer: Any, prompts: Sequence[str], size: int) -> list[list[int]]:
    """Token ids of prompts as the chat template puts them before an answer."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    try:
        with blaming("the model", "its chat template refuses a prompt", "use --calibration FILE"):
            texts = [
                tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
                for chat in chats
            ]
    except ResqError:
        raise CannotWriteError("its chat template refuses a prompt") from None
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    if max(map(max, ids)) >= size:
        raise CannotWriteError("its tokenizer has tokens that it has no embedding of")
    return ids


def joined(
    tokenizer: Any,
    written: Sequence[NDArray[np.int64]],
    rows: Sequence[Row],
    opening: Sequence[int],
) -> NDArray[np.int64]:
    """The pieces as one text: those that are no chats without their opening, and separated."""
    between = np.asarray(tokenizer([SEPARATOR], add_special_tokens=False)["input_ids"][0], np.int64)
    parts = []
    for piece, row in zip(written, rows, strict=True):
        parts += [piece] if row.may_end else [piece[len(opening) :], between]
    return np.concatenate(parts)
