"""Generation: greedy on a graph computed by hand, sampling on fixed logits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime import BufferedDecoder, create_session, generate
from resq_onnx.runtime.guessing import Guesser
from resq_onnx.runtime.sampling import Sampler
from tests.runtime import toy


@pytest.fixture
def decoder(tmp_path: Path) -> BufferedDecoder:
    return BufferedDecoder(create_session(toy.save_toy(tmp_path / "toy.onnx"), threads=1), 16)


def continuation(prompt: list[int], length: int) -> list[int]:
    """What the toy says, without a cache: the whole text again for every token."""
    text = list(prompt)
    for _ in range(length):
        text.append(int(toy.expected_tokens(np.array([text]))[0, -1]))
    return text[len(prompt) :]


class FixedLogits:
    """Says that these are the logits, whatever the tokens."""

    max_length, length = 10_000, 0

    def __init__(self, probabilities: list[float]) -> None:
        self.logits = np.log(np.array(probabilities, np.float32))

    def rewind(self, length: int) -> None:
        pass

    def run(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.broadcast_to(self.logits, (len(ids), len(self.logits)))


def draw(probabilities: list[float], count: int, **options: float) -> list[int]:
    decoder = cast(BufferedDecoder, FixedLogits(probabilities))
    return list(generate(decoder, [0], count, **cast(Any, options)))


def test_greedy_generation_feeds_its_own_tokens_back(decoder: BufferedDecoder) -> None:
    prompt = [3, 1, 4]
    assert list(generate(decoder, prompt, 8)) == continuation(prompt, 8)


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(decoder: BufferedDecoder) -> None:
    full = continuation([3, 1, 4], 8)
    stop = full[4]
    assert list(generate(decoder, [3, 1, 4], 8, stop_ids={stop})) == full[: full.index(stop)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_end_the_text_and_name_the_step(
    decoder: BufferedDecoder, bad: float, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = decoder.run

    def running(ids: NDArray[np.int64]) -> NDArray[Any]:
        logits = run(ids)
        if decoder.length == 5:
            logits[0, 7] = bad
        return logits

    monkeypatch.setattr(decoder, "run", running)
    tokens = generate(decoder, [3, 1, 4], 8, temperature)
    assert len([next(tokens), next(tokens)]) == 2
    with pytest.raises(ResqError, match="not finite for new token 3, at position 5 of the text"):
        next(tokens)


def test_tokens_come_one_by_one() -> None:
    calls: list[int] = []

    class Counting(FixedLogits):
        def run(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
            calls.append(ids.shape[1])
            return super().run(ids)

    tokens = generate(cast(BufferedDecoder, Counting([0.2, 0.8])), [0, 0, 0], 5)
    assert next(tokens) == 1
    assert calls == [3]
    assert next(tokens) == 1
    assert calls == [3, 1]


def test_every_text_begins_anew(decoder: BufferedDecoder) -> None:
    assert list(generate(decoder, [3, 1, 4], 8)) == list(generate(decoder, [3, 1, 4], 8))


def test_what_the_decoder_knows_of_a_prompt_does_not_run_again(decoder: BufferedDecoder) -> None:
    whole = list(generate(decoder, [3, 1, 4, 1, 5], 8))
    for known in range(5):
        decoder.reset()
        if known:
            decoder.run(np.array([[*[3, 1, 4, 1, 5][:known], 9]]))  # and one token too many
        assert list(generate(decoder, [3, 1, 4, 1, 5], 8, known=known)) == whole
    with pytest.raises(ValueError, match="5 of 5 tokens cannot be known"):
        generate(decoder, [3, 1, 4, 1, 5], 8, known=5)


def test_a_buffer_that_just_holds_the_text_is_enough(decoder: BufferedDecoder) -> None:
    assert list(generate(decoder, [3, 1, 4], 14)) == continuation([3, 1, 4], 14)
    with pytest.raises(ResqError, match=r"need a cache of 17, and it holds 16; .*max_length=17"):
        generate(decoder, [3, 1, 4], 15)


def test_no_new_tokens_means_none() -> None:
    assert draw([0.5, 0.5], 0) == []


def test_draws_follow_the_probabilities() -> None:
    counts = Counter(draw([0.1, 0.6, 0.3], 3000, temperature=1.0))
    # Four standard deviations of a share near one half of 3000 draws.
    tolerance = 4 * 0.5 / np.sqrt(3000)
    assert [counts[i] / 3000 for i in range(3)] == pytest.approx([0.1, 0.6, 0.3], abs=tolerance)


def test_a_high_temperature_levels_and_a_low_one_sharpens() -> None:
    assert set(draw([0.45, 0.55], 200, temperature=0.01)) == {1}
    counts = Counter(draw([0.01, 0.99], 2000, temperature=100.0))
    assert 0.4 < counts[0] / 2000 < 0.6


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    probabilities = [0.15, 0.5, 0.05, 0.3]
    assert set(draw(probabilities, 300, temperature=1.0, top_p=0.4)) == {1}
    assert set(draw(probabilities, 300, temperature=1.0, top_p=0.7)) == {1, 3}
    assert set(draw(probabilities, 300, temperature=1.0, top_p=1.0)) == {0, 1, 2, 3}


def test_the_seed_decides_the_draws() -> None:
    level = [0.25] * 4
    assert draw(level, 30, temperature=1.0, seed=1) == draw(level, 30, temperature=1.0, seed=1)
    assert draw(level, 30, temperature=1.0, seed=1) != draw(level, 30, temperature=1.0, seed=2)


def test_a_negative_seed_is_one_of_64_bits() -> None:
    texts = [draw([0.2] * 5, 30, temperature=1.0, seed=seed) for seed in (-4, 2**64 - 4, 4)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_an_impossible_token_is_never_drawn() -> None:
    decoder = FixedLogits([0.5, 0.5])
    decoder.logits = np.array([1e30, -np.inf, 1e30], np.float32)
    assert 1 not in list(generate(cast(BufferedDecoder, decoder), [0], 100, temperature=1.0))


@pytest.mark.parametrize(
    ("prompt", "options", "reason"),
    [
        ([], {}, "prompt has no tokens"),
        ([1], {"temperature": -0.1}, "temperature is -0.1"),
        ([1], {"top_p": 0.0}, "top-p is 0.0"),
        ([1], {"top_p": 1.5}, "top-p is 1.5"),
        ([1], {"temperature": float("nan")}, "temperature is nan"),
        ([1], {"seed": -(2**63) - 1}, "seed is -9223372036854775809"),
        ([1], {"seed": 2**64}, "from -2\\*\\*63 to"),
    ],
)
def test_bad_arguments_are_refused_before_the_first_token(
    prompt: list[int], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ResqError, match=reason):
        generate(cast(BufferedDecoder, FixedLogits([1.0])), prompt, 1, **options)


class Guessing(Guesser):
    """Guesses the text to come, but for some tokens that are wrong."""

    def __init__(self, text: list[int], seed: int) -> None:
        super().__init__(1)
        self.text, self.random, self.asked = text, np.random.default_rng(seed), 0

    def guess(self, room: int, sampler: Sampler | None = None) -> list[int]:
        del sampler
        self.asked += 1
        size = int(self.random.integers(0, 5))
        guessed = self.text[len(self._tokens) :][: min(size, room)]
        return [token if self.random.random() < 0.7 else (token + 1) % 50 for token in guessed]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guesses_right_or_wrong_do_not_change_the_text(
    decoder: BufferedDecoder, seed: int, temperature: float
) -> None:
    prompt = [3, 1, 4]
    expected = list(generate(decoder, prompt, 14, temperature, seed=seed))
    guesser = Guessing([*prompt, *expected], seed)
    found = list(generate(decoder, prompt, 14, temperature, seed=seed, guesser=guesser))
    assert found == expected
    assert 0 < guesser.right < guesser.guessed
    assert guesser.asked < len(expected)


def test_a_stop_token_among_guesses_ends_the_text(decoder: BufferedDecoder) -> None:
    full = continuation([3, 1, 4], 8)
    stop = full[4]
    guesser = Guesser(4)
    guesser.guess = lambda room, _: full[len(guesser._tokens) - 3 :][:room]  # type: ignore[method-assign, assignment, misc]
    found = generate(decoder, [3, 1, 4], 8, stop_ids={stop}, guesser=guesser)
    assert list(found) == full[: full.index(stop)]


def test_a_model_with_the_last_logits_alone_cannot_check_guesses(tmp_path: Path) -> None:
    session = create_session(toy.save_toy(tmp_path / "toy.onnx", last_only=True), threads=1)
    with pytest.raises(ResqError, match="exported with --logits last"):
        generate(BufferedDecoder(session, 16), [3], 4, guesser=Guesser(2))
