"""How near two sets of logits are, and the two gates that an export must pass."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.distance import compare
from resq_onnx.evaluation.parity import (
    DECODE_TOLERANCE,
    FLOAT_TOLERANCE,
    check_decode_parity,
    check_float_parity,
)
from resq_onnx.runtime import Decoder, create_session
from resq_onnx.runtime.decoder import decode_logits, prefill_logits
from tests.runtime import toy

IDS = np.array([[0, 1, 2], [2, 2, 0]], np.int64)

LAST_DIGITS = 1e-6
"""Float32 sums of a few terms against float64."""


def random_logits(seed: int = 0, scale: float = 1.0) -> NDArray[np.float32]:
    """(2, 3, 4)."""
    noise = np.random.default_rng(seed).standard_normal((*IDS.shape, 4))
    return (scale * noise).astype(np.float32)


def probabilities(logits: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def test_logits_agree_with_themselves() -> None:
    agreement = compare(random_logits(), random_logits(), IDS)
    assert agreement.relative_error == 0.0
    assert agreement.kl_divergence == 0.0
    assert agreement.top1_agreement == 1.0
    assert agreement.perplexity_ratio == 1.0


def test_each_measure_is_that_of_its_definition() -> None:
    expected, found = random_logits(0), random_logits(1)
    agreement = compare(expected, found, IDS)
    p, q = probabilities(expected), probabilities(found)
    errors, divergences, same, losses = [], [], [], []
    for b, s in np.ndindex(*IDS.shape):
        errors.append(max(abs(found[b, s] - expected[b, s])))
        divergences.append(sum(p[b, s] * (np.log(p[b, s]) - np.log(q[b, s]))))
        same.append(expected[b, s].argmax() == found[b, s].argmax())
        if s + 1 < IDS.shape[1]:
            following = IDS[b, s + 1]
            losses.append(math.log(p[b, s, following]) - math.log(q[b, s, following]))
    assert agreement.relative_error == pytest.approx(max(errors) / np.abs(expected).max())
    assert agreement.kl_divergence == pytest.approx(np.mean(divergences), rel=LAST_DIGITS)
    assert agreement.top1_agreement == np.mean(same)
    assert 0 < agreement.top1_agreement < 1
    ratio = math.exp(sum(losses) / len(losses))
    assert agreement.perplexity_ratio == pytest.approx(ratio, rel=LAST_DIGITS)
    error = ratio * np.std(losses, ddof=1) / len(losses) ** 0.5
    assert agreement.standard_error == pytest.approx(error, rel=LAST_DIGITS)
    assert agreement.log_error == pytest.approx(error / ratio, rel=LAST_DIGITS)


def test_adding_a_number_to_all_logits_of_a_token_changes_only_the_relative_error() -> None:
    logits = random_logits()
    agreement = compare(logits, logits + np.float32(2.0), IDS)
    assert agreement.relative_error > 0.5
    assert agreement.kl_divergence == pytest.approx(0.0, abs=LAST_DIGITS)
    assert agreement.top1_agreement == 1.0
    assert agreement.perplexity_ratio == pytest.approx(1.0, abs=LAST_DIGITS)


def test_logits_of_a_thousand_overflow_nothing() -> None:
    agreement = compare(random_logits(0, 1000.0), random_logits(1, 1000.0), IDS)
    assert math.isfinite(agreement.kl_divergence)
    assert agreement.kl_divergence > 100


def test_zeros_against_zeros_agree() -> None:
    zeros = np.zeros((*IDS.shape, 4), np.float32)
    assert compare(zeros, zeros, IDS).relative_error == 0.0


def test_one_token_predicts_nothing() -> None:
    agreement = compare(random_logits(0)[:, :1], random_logits(1)[:, :1], IDS[:, :1])
    assert agreement.perplexity_ratio == 1.0
    assert agreement.standard_error is None
    assert agreement.relative_error > 0


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_the_float_gate_opens_up_to_its_tolerance(factor: float) -> None:
    logits = random_logits()
    moved = logits.copy()
    moved[0, 1, 2] += factor * FLOAT_TOLERANCE * np.abs(logits).max()
    if factor < 1:
        assert check_float_parity(logits, moved, IDS).relative_error < FLOAT_TOLERANCE
        return
    with pytest.raises(ResqError) as error:
        check_float_parity(logits, moved, IDS)
    assert "parity: the logits of the rotated float graph differ from PyTorch's" in str(error.value)
    assert "nothing was written" in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_float_gate_is_closed_to_what_is_no_number(value: float) -> None:
    logits = random_logits()
    broken = logits.copy()
    broken[1, 2, 3] = value
    with np.errstate(invalid="ignore"), pytest.raises(ResqError, match="parity"):
        check_float_parity(logits, broken, IDS)


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    return Decoder(create_session(toy.save_toy(tmp_path / "toy.onnx"), threads=1))


TOKENS = np.array([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]], np.int64)


def test_decode_logits_are_those_of_prefill_through_the_cache(decoder: Decoder) -> None:
    logits = decode_logits(decoder, TOKENS)
    assert logits.shape == (*TOKENS.shape, toy.VOCABULARY)
    np.testing.assert_array_equal(logits.argmax(axis=-1), toy.expected_tokens(TOKENS))
    np.testing.assert_array_equal(logits, decoder.run(TOKENS)[0])


def test_logits_of_one_pass_are_found_prefix_by_prefix_if_the_graph_gives_only_the_last(
    decoder: Decoder, tmp_path: Path
) -> None:
    path = toy.save_toy(tmp_path / "last.onnx", last_only=True)
    last = Decoder(create_session(path, threads=1))
    expected = decoder.run(TOKENS)[0]
    np.testing.assert_array_equal(prefill_logits(decoder, TOKENS), expected)
    np.testing.assert_array_equal(prefill_logits(last, TOKENS), expected)
    assert check_decode_parity(last, TOKENS).perplexity_ratio == 1.0


def test_the_decode_gate_lets_a_consistent_decoder_pass(decoder: Decoder) -> None:
    agreement = check_decode_parity(decoder, TOKENS)
    assert agreement.perplexity_ratio == 1.0


class Forgetful:
    """A decoder whose logits are scaled when it runs from a cache."""

    signature = toy.SIGNATURE

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.calls: list[int] = []

    def run(
        self, ids: NDArray[np.int64], state: int | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """The most likely next token is the token itself."""
        self.calls.append(ids.shape[1])
        logits = np.zeros((*ids.shape, 10), np.float32)
        np.put_along_axis(logits, ids[..., None], 1.0 if state is None else self.scale, axis=-1)
        return logits, (state or 0) + ids.shape[1]


@pytest.mark.parametrize(("scale", "passes"), [(1.0, True), (1.01, True), (2.0, False)])
def test_the_decode_gate_looks_at_the_perplexity(scale: float, passes: bool) -> None:
    forgetful = Forgetful(scale)
    ids = np.full((2, 6), 3, np.int64)
    decoder = cast(Decoder, forgetful)
    if passes:
        agreement = check_decode_parity(decoder, ids)
        assert abs(agreement.perplexity_ratio - 1) <= DECODE_TOLERANCE
        assert (agreement.perplexity_ratio == 1.0) == (scale == 1.0)
    else:
        with pytest.raises(ResqError, match="parity: token by token, the perplexity is 0"):
            check_decode_parity(decoder, ids)
    assert forgetful.calls == [6] + [1] * 6


def test_the_decode_gate_is_closed_to_what_is_no_number() -> None:
    with pytest.raises(ResqError, match="parity: token by token, the perplexity is nan"):
        check_decode_parity(cast(Decoder, Forgetful(np.nan)), np.full((1, 4), 3, np.int64))


class Elsewhere:
    """A decoder that, from a cache, likes token 7 better, and token 3 as much as before."""

    signature = toy.SIGNATURE

    def run(
        self, ids: NDArray[np.int64], state: int | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """All ten tokens are equally likely in one pass."""
        logits = np.zeros((*ids.shape, 10), np.float32)
        if state is not None:
            logits[..., 7] = 2.0
            logits[..., 3] = np.log((8 + np.exp(2.0)) / 9)  # a tenth of all, as before
        return logits, (state or 0) + ids.shape[1]


def test_the_decode_gate_looks_at_more_than_the_perplexity() -> None:
    decoder = cast(Decoder, Elsewhere())
    ids = np.full((2, 6), 3, np.int64)
    exact = np.zeros((2, 6, 10), np.float32)
    assert abs(check_decode_parity(decoder, ids).perplexity_ratio - 1) < LAST_DIGITS
    with pytest.raises(ResqError, match=r"nats away from one pass, and one pass 0\.000 from"):
        check_decode_parity(decoder, ids, exact)
    # Where quantisation itself is further away, so may be decode.
    crude = exact.copy()
    crude[..., 5] = 4.0
    assert check_decode_parity(decoder, ids, crude).kl_divergence > 0.2
