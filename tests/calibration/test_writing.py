"""A model writes rows of tokens by its own probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from resq_onnx.calibration.writing import Row, TooSlowError, Vocabulary, write_rows
from tests.calibration import tiny

SIZE = tiny.SIZES["vocab_size"]
END = 2


def vocabulary(*unused: int) -> Vocabulary:
    ends, missing = np.arange(SIZE) == END, np.isin(np.arange(SIZE), unused)
    return Vocabulary(np.flatnonzero(~ends & ~missing), ends, missing)


def begins(*tokens: int, may_end: bool = False) -> Row:
    return Row(itertools.repeat(tokens), may_end)


class Scripted:
    """A model whose next token is certain: the one after the last, up to a vocabulary's end."""

    device = torch.device("cpu")

    def __init__(self, follows: Sequence[int]) -> None:
        self._follows = follows

    def __call__(self, input_ids: torch.Tensor, **_others: Any) -> Any:
        logits = torch.full((*input_ids.shape, SIZE), -100.0)
        for row, token in enumerate(input_ids[:, 0]):
            logits[row, 0, self._follows[int(token)]] = 100.0
        return SimpleNamespace(logits=logits, past_key_values=None)


NEXT = [(token + 1) % SIZE for token in range(SIZE)]


def test_rows_begin_with_what_they_are_given_and_go_on_with_what_the_model_draws() -> None:
    written = write_rows(Scripted(NEXT), [begins(5), begins(9, 20, 30)], 5, vocabulary(), seed=0)
    assert written.tolist() == [[5, 6, 7, 8, 9], [9, 20, 30, 31, 32]]


def test_a_text_that_ends_is_followed_by_the_next_beginning() -> None:
    prompts: Iterator[Sequence[int]] = iter([(0, 1), (10, 11), (20,)])
    follows = [*NEXT[:11], END, *NEXT[12:]]
    written = write_rows(Scripted(follows), [Row(prompts, may_end=True)], 9, vocabulary(), seed=0)
    assert written.tolist() == [[0, 1, END, 10, 11, END, 20, 21, 22]]


def test_a_special_token_that_is_given_ends_nothing() -> None:
    written = write_rows(Scripted(NEXT), [begins(7, END, may_end=True)], 5, vocabulary(), seed=0)
    assert written.tolist() == [[7, END, 3, 4, 5]]


def test_neither_unused_tokens_nor_ends_are_drawn_where_they_are_barred() -> None:
    model, barred = tiny.tiny_llama(), (0, 7, 39)
    written = write_rows(model, [begins(5)] * 8, 60, vocabulary(*barred), seed=0)
    assert not np.isin(written, [END, *barred]).any()
    assert len(np.unique(written)) == SIZE - 4


def test_the_seed_decides() -> None:
    model = tiny.tiny_llama()

    def text(seed: int) -> bytes:
        return write_rows(model, [begins(5)] * 4, 12, vocabulary(), seed).tobytes()

    assert text(1) == text(1)
    assert text(1) != text(2)


@pytest.mark.parametrize("make", [tiny.tiny_llama, tiny.tiny_qwen2])
def test_tokens_are_drawn_by_the_probabilities_of_the_model_without_a_cache(make: Any) -> None:
    model, first = make(), 5
    rows = write_rows(model, [begins(first, 11)] * 4000, 3, vocabulary(), seed=0)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[first, 11]])).logits[0, -1].double()
    logits[END] = -torch.inf
    expected = logits.softmax(-1).numpy()
    found = np.bincount(rows[:, 2], minlength=SIZE) / len(rows)
    assert np.abs(found - expected).max() < 4 * 0.5 / np.sqrt(len(rows))


def test_what_would_take_too_long_is_given_up_after_a_few_steps() -> None:
    steps = itertools.count(0, 10)
    done: list[int] = []
    with pytest.raises(TooSlowError) as caught:
        write_rows(
            *(Scripted(NEXT), [begins(5)], 100, vocabulary(), 0),
            most_seconds=999,
            advance=lambda place, _total: done.append(place),
            clock=lambda: float(next(steps)),
        )
    assert caught.value.args == (1000.0,)
    assert len(done) < 10


def test_progress_counts_the_tokens_of_a_row() -> None:
    done: list[tuple[int, int]] = []
    write_rows(
        *(Scripted(NEXT), [begins(5)], 4, vocabulary(), 0),
        advance=lambda place, total: done.append((place, total)),
    )
    assert done == [(2, 4), (3, 4), (4, 4)]
