"""Let a float model write text in PyTorch: many rows in lockstep, each drawn at temperature 1.

All rows have the same length, and what a row is given (a first token, a prompt) goes through the
model token by token, as what it draws does. So no row needs padding, and one step runs all of them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

PROBED: Final = range(2, 6)
"""Steps that are timed to estimate how long all will take; the first ones also warm up."""


@dataclass(frozen=True)
class Row:
    """One sequence that a model writes.

    Attributes:
        beginnings: Token ids that the model is given: the first ones begin the row, and the next
            ones follow whenever it has drawn a token that ends a text.
        may_end: Whether it may draw such a token.
    """

    beginnings: Iterator[Sequence[int]]
    may_end: bool


@dataclass(frozen=True)
class Vocabulary:
    """Kinds of the tokens that a model computes logits of.

    Attributes:
        ordinary: Ids of tokens that stand for text, ascending.
        ends: Whether a token is special, which ends a text; (vocabulary,).
        unused: Whether the tokenizer has no token of this id; (vocabulary,).
    """

    ordinary: NDArray[np.int64]
    ends: NDArray[np.bool_]
    unused: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Any, size: int) -> Vocabulary:
        """The vocabulary of a Hugging Face tokenizer and a model with logits of `size` tokens."""
        known, ends, added = (np.zeros(size, np.bool_) for _ in range(3))
        for token in tokenizer.get_vocab().values():
            known[token : token + 1] = True
        for token, entry in tokenizer.added_tokens_decoder.items():
            added[token : token + 1] = True
            ends[token : token + 1] = entry.special
        return cls(np.flatnonzero(known & ~added), ends, ~known)


class CannotWriteError(Exception):
    """The model does not fit, or would take too long; the argument says which, and by how much."""


class TooSlowError(Exception):
    """Writing would take longer than it may; the argument is the estimate in seconds."""


def write_rows(
    model: Any,
    rows: Sequence[Row],
    length: int,
    vocabulary: Vocabulary,
    seed: int,
    *,
    most_seconds: float = np.inf,
    advance: Callable[[int, int], None] = lambda done, total: None,
    clock: Callable[[], float] = time.process_time,
) -> NDArray[np.int64]:
    """Let a model write rows of tokens.

    Args:
        model: A causal language model of transformers, on the device where it computes.
        rows: What each row is given.
        length: Tokens of a row, at least 1, with those that it is given.
        vocabulary: Of the model.
        seed: Seeds the draws: the same seed, device and threads give the same text.
        most_seconds: How much time it may take, by the clock.
        advance: Called with the tokens of a row that are done, and `length`.
        clock: Measures seconds; by default those that this process computes, in all threads
            together, so that other programs on the machine change nothing.

    Returns:
        Token ids, (rows, length).

    Raises:
        TooSlowError: After a few steps, it looks as if all would take longer than that.
    """
    generator = torch.Generator(model.device).manual_seed(seed)
    barred = np.stack([vocabulary.unused | (vocabulary.ends & (not row.may_end)) for row in rows])
    never = torch.from_numpy(barred).to(model.device)
    given = [deque(next(row.beginnings)) for row in rows]
    written = np.zeros((len(rows), length), np.int64)
    logits: torch.Tensor | None = None
    cache, times = None, [clock()]
    for place in range(length):
        with torch.inference_mode():
            drawn = [] if logits is None else _draw(logits, never, generator)
        for i, row in enumerate(rows):
            if given[i]:
                written[i, place] = given[i].popleft()
                continue
            written[i, place] = drawn[i]
            if vocabulary.ends[drawn[i]]:
                given[i].extend(next(row.beginnings))
        if place == length - 1:
            break
        with torch.inference_mode():
            now = torch.from_numpy(written[:, place : place + 1]).to(model.device)
            found = model(input_ids=now, past_key_values=cache, use_cache=True)
        logits, cache = found.logits[:, -1], found.past_key_values
        times.append(clock())
        _check_speed(times, length, most_seconds)
        advance(place + 2, length)
    return written


def _draw(logits: torch.Tensor, never: torch.Tensor, generator: torch.Generator) -> list[int]:
    """A token of each row by its probability, with one random number a row.

    Args:
        logits: (rows, vocabulary).
        never: Tokens that are not drawn; the same shape.
        generator: Of the random numbers.
    """
    weights = logits.float().masked_fill(never, -torch.inf).softmax(-1)
    ends = weights.cumsum(-1)
    whole = ends[:, -1:]
    random = torch.rand(whole.shape, generator=generator, device=whole.device)
    # A product may be rounded up to the end of the last interval.
    point = torch.minimum(random * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    return [int(token) for token in torch.searchsorted(ends, point, right=True)[:, 0].cpu()]


def _check_speed(times: Sequence[float], length: int, most: float) -> None:
    """Refuse to go on if the probed steps say that all would take too long."""
    if len(times) == PROBED.stop:
        step = (times[-1] - times[PROBED.start]) / (len(PROBED) - 1)
        if step * length > most:
            raise TooSlowError(step * length)
