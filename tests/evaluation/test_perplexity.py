"""Perplexity: against naive float64 arithmetic, and decode against prefill."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation import perplexity
from resq_onnx.evaluation.perplexity import negative_log_likelihood
from resq_onnx.runtime import Decoder, create_session
from tests.runtime import toy

FLOAT64_TOLERANCE: Final = 1e-12
"""Sums of float64 numbers in another order."""


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    return Decoder(create_session(toy.save_toy(tmp_path / "toy.onnx"), threads=1))


class Uniform:
    """Finds every token equally likely, and remembers what it was given."""

    signature = toy.SIGNATURE

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary
        self.seen: list[tuple[int, ...]] = []

    def run(self, ids: NDArray[np.int64], state: Any = None) -> tuple[NDArray[np.float32], str]:
        self.seen.append(tuple(ids[0].tolist()))
        return np.zeros((*ids.shape, self.vocabulary), np.float32), "state"


def uniform(vocabulary: int = 8) -> tuple[Uniform, Decoder]:
    model = Uniform(vocabulary)
    return model, cast(Decoder, model)


def text(length: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, toy.VOCABULARY, length)


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 70])
def test_likelihood_is_that_of_naive_arithmetic(rows: int) -> None:
    random = np.random.default_rng(rows)
    logits = random.normal(0, 5, (rows, 11)).astype(np.float32)
    targets = random.integers(0, 11, rows)
    expected = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        expected -= math.log(math.exp(row[target]) / math.fsum(map(math.exp, row)))
    found = negative_log_likelihood(logits, targets)
    assert found == pytest.approx(expected, rel=FLOAT64_TOLERANCE)


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([[3e38, 0.0], [-3e38, 0.0]], np.float32)
    found = negative_log_likelihood(logits, np.array([0, 1]))
    assert found == 0.0


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity() -> None:
    _, decoder = uniform(8)
    result = perplexity(decoder, text(40) % 8, window=10)
    assert result.perplexity == pytest.approx(8.0, rel=FLOAT64_TOLERANCE)
    assert result.nll == pytest.approx(math.log(8.0), rel=FLOAT64_TOLERANCE)
    assert (result.tokens, result.windows) == (36, 4)


def test_perplexity_of_the_toy_is_what_its_logits_say(decoder: Decoder) -> None:
    tokens = text(60)
    tokens[1] = toy.expected_tokens(tokens[None, :1])[0, 0]  # at least one token is foreseen
    windows = tokens.reshape(3, 20)
    hits = int((toy.expected_tokens(windows)[:, :-1] == windows[:, 1:]).sum())
    assert hits > 0
    log_sum = math.log(math.exp(toy.PEAK) + toy.VOCABULARY - 1)
    expected = log_sum - toy.PEAK * hits / 57
    result = perplexity(decoder, tokens, window=20)
    assert result.nll == pytest.approx(expected, rel=FLOAT64_TOLERANCE)
    assert result.perplexity == pytest.approx(math.exp(expected), rel=FLOAT64_TOLERANCE)


def test_token_by_token_is_the_same_text_with_the_same_perplexity(decoder: Decoder) -> None:
    tokens = text(45)
    prefill = perplexity(decoder, tokens, window=15)
    decode = perplexity(decoder, tokens, window=15, token_by_token=True)
    assert decode.nll == pytest.approx(prefill.nll, rel=FLOAT64_TOLERANCE)
    assert (decode.tokens, decode.windows) == (prefill.tokens, prefill.windows)


def test_a_model_that_gives_only_the_last_logits_is_evaluated_token_by_token(
    decoder: Decoder, tmp_path: Path
) -> None:
    path = toy.save_toy(tmp_path / "last.onnx", last_only=True)
    last, tokens = Decoder(create_session(path, threads=1)), text(20)
    with pytest.raises(ResqError, match=r"evaluate it with --token-by-token, or export"):
        perplexity(last, tokens)
    decode = perplexity(last, tokens, token_by_token=True)
    assert decode.nll == pytest.approx(perplexity(decoder, tokens).nll, rel=FLOAT64_TOLERANCE)


def test_windows_do_not_overlap_and_the_rest_is_left_out() -> None:
    model, decoder = uniform()
    perplexity(decoder, range(11), window=4)
    # The last token of a window is only predicted, never read.
    assert model.seen == [(0, 1, 2), (4, 5, 6)]


def test_token_by_token_reads_one_token_a_call() -> None:
    model, decoder = uniform()
    perplexity(decoder, range(8), window=4, token_by_token=True)
    assert model.seen == [(0,), (1,), (2,), (4,), (5,), (6,)]


def test_a_short_text_is_one_window() -> None:
    _, decoder = uniform()
    result = perplexity(decoder, [1, 2, 3], window=512)
    assert (result.tokens, result.windows) == (2, 1)


def test_the_number_of_windows_may_be_limited_and_progress_counts_them() -> None:
    model, decoder = uniform()
    steps: list[tuple[int, int]] = []
    result = perplexity(
        decoder, range(8), 2, max_windows=3, progress=lambda done, all_: steps.append((done, all_))
    )
    assert result.windows == len(model.seen) == 3
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_a_hopeless_model_has_infinite_perplexity_and_no_error() -> None:
    class Wrong(Uniform):
        def run(self, ids: NDArray[np.int64], state: Any = None) -> Any:
            logits, state = super().run(ids, state)
            logits[..., 0] = 1e4
            return logits, state

    result = perplexity(cast(Decoder, Wrong(8)), [1, 2, 3])
    assert result.perplexity == math.inf
    assert result.nll == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("tokens", "window", "max_windows", "reason"),
    [
        ([], 512, None, "text has 0 tokens"),
        ([1], 512, None, "text has 1 tokens"),
        ([1, 2], 1, None, "a window 1"),
        ([1, 2], 2, 0, "number of windows is 0"),
    ],
)
def test_too_little_text_is_refused(
    tokens: list[int], window: int, max_windows: int | None, reason: str
) -> None:
    _, decoder = uniform()
    with pytest.raises(ResqError, match=reason):
        perplexity(decoder, tokens, window, max_windows)
