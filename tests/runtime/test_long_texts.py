"""Texts from anywhere: refused when they are far too long, and else tokenised as ever."""

from __future__ import annotations

import threading
import time

import pytest

from resq_onnx.runtime.long_texts import (
    SLICE,
    EncodingCancelledError,
    TooLongError,
    encode_at_most,
)
from resq_onnx.runtime.tokenizer import Tokenizer
from tests.runtime.test_tokenizer import byte_tokenizer

BYTES = Tokenizer(byte_tokenizer())
"""A token a byte, and a token before each text."""

TEXT = "Grüße 🌍 " * SLICE


def encode(text: str, limit: int, longest: int = 16, **options: bool) -> list[int]:
    return encode_at_most(BYTES.backend, text, limit, longest, threading.Event(), **options)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", ["", "a", TEXT[: SLICE - 1], TEXT[: SLICE + 1], TEXT])
def test_a_text_that_may_fit_has_the_tokens_it_always_has(text: str, special: bool) -> None:
    expected = BYTES.encode(text, add_special_tokens=special)
    assert encode(text, len(text.encode()), add_special_tokens=special) == expected


def test_a_text_of_too_many_bytes_is_refused_before_any_of_it_is_tokenised() -> None:
    began = time.monotonic()
    with pytest.raises(TooLongError):
        encode("a" * 4_000_000, limit=256)
    assert time.monotonic() - began < 0.5


def test_a_text_of_too_many_tokens_is_refused_after_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slices: list[int] = []

    class Counting:
        def encode_batch_fast(self, texts: list[str], add_special_tokens: bool) -> object:
            slices.append(len(texts[0]))
            return BYTES.backend.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    with pytest.raises(TooLongError):
        encode_at_most(Counting(), "a" * 50 * SLICE, 2 * SLICE, 10**6, threading.Event())  # type: ignore[arg-type]
    assert slices == [SLICE] * 3


def test_a_text_that_nobody_wants_any_more_is_tokenised_no_further() -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(EncodingCancelledError):
        encode_at_most(BYTES.backend, TEXT, 10**9, 16, cancelled)


def test_other_threads_run_while_a_long_text_is_tokenised() -> None:
    gaps: list[float] = []
    ended = threading.Event()

    def tick() -> None:
        last = time.monotonic()
        while not ended.wait(0.001):
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    thread = threading.Thread(target=tick)
    thread.start()
    began = time.monotonic()
    encode(TEXT * 3, limit=10**9)
    seconds = time.monotonic() - began
    ended.set()
    thread.join()
    assert max(gaps) < max(seconds / 2, 0.05)


def test_the_longest_token_is_that_of_the_vocabulary() -> None:
    assert BYTES.longest_token == len("<|begin|>")
