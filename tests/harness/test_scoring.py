"""Log-likelihoods: those of one pass over each text, whatever was read before."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.perplexity import token_losses
from resq_onnx.harness.scoring import Question, Scorer
from resq_onnx.runtime import Decoder, create_session
from tests.runtime import toy

IDS: Final = np.random.default_rng(0).integers(0, toy.VOCABULARY, (8, 9)).tolist()

CASES: Final = [
    ([1, 2, 3, 4], [5, 6]),
    ([1, 2, 3, 4], [5, 1, 2]),
    ([1, 2, 3, 4], [7]),
    ([1, 2, 3, 4], [3]),
    ([1, 2], [3]),
    ([1, 2], [3, 4, 5, 6]),
    ([2], [1]),
    *((row[:5], row[5:]) for row in IDS),
]
"""Equal contexts, one text that is the beginning of another, and texts that share nothing."""


class Counting:
    """A decoder that remembers how many tokens it was given."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.signature = decoder.signature
        self.tokens = 0

    def run(self, ids: Any, state: Any = None) -> Any:
        self.tokens += ids.size
        return self.decoder.run(ids, state)


def toy_decoder(folder: Path, last_only: bool = False) -> Decoder:
    path = toy.save_toy(folder / f"{last_only}.onnx", last_only=last_only)
    return Decoder(create_session(path, threads=1))


def expected(decoder: Decoder, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """One pass over the whole text."""
    logits = decoder.run(np.array([context + continuation]))[0][0, len(context) - 1 : -1]
    losses = token_losses(logits, np.array(continuation))
    return -float(losses.sum()), logits.argmax(axis=1).tolist() == continuation


@pytest.mark.parametrize("last_only", [False, True])
def test_scores_are_those_of_one_pass_over_each_text(tmp_path: Path, last_only: bool) -> None:
    whole = toy_decoder(tmp_path)
    questions = [Question.of(context, continuation, 100) for context, continuation in CASES]
    found = dict(Scorer(toy_decoder(tmp_path, last_only)).scores(questions))
    assert sorted(found) == list(range(len(CASES)))
    for index, (context, continuation) in enumerate(CASES):
        log_likelihood, greedy = expected(whole, context, continuation)
        assert found[index].log_likelihood == pytest.approx(log_likelihood, abs=1e-5)
        assert found[index].greedy == greedy


def test_the_likeliest_continuation_is_greedy(tmp_path: Path) -> None:
    decoder = toy_decoder(tmp_path)
    best = int(decoder.run(np.array([[1, 2, 3]]))[0][0, -1].argmax())
    scorer = Scorer(decoder)
    assert scorer.score(Question.of([1, 2, 3], [best], 100)).greedy
    assert not scorer.score(Question.of([1, 2, 3], [(best + 1) % toy.VOCABULARY], 100)).greedy


def test_what_texts_share_is_read_once(tmp_path: Path) -> None:
    counting: Any = Counting(toy_decoder(tmp_path))
    context = IDS[0]
    questions = [Question.of(context, [token, 1], 100) for token in (3, 1, 2)]
    list(Scorer(counting).scores(questions))
    # The context but its last token once; then two rows of logits for each question.
    assert counting.tokens == len(context) - 1 + 3 * 2


def test_a_text_longer_than_the_model_reads_loses_its_beginning() -> None:
    question = Question.of([1, 2, 3, 4, 5], [6, 7], max_length=4)
    assert question == Question((3, 4, 5, 6), (6, 7))
    assert Question.of([1, 2], [3, 4], max_length=2) == Question((2, 3), (3, 4))


def test_a_continuation_longer_than_the_model_reads_is_refused() -> None:
    with pytest.raises(ResqError, match=r"3 tokens, but the model reads at most 2"):
        Question.of([1], [2, 3, 4], max_length=2)


def test_a_continuation_with_nothing_before_it_is_refused() -> None:
    with pytest.raises(ResqError, match="without a token before it"):
        Question.of([], [1], max_length=8)


def test_an_empty_continuation_is_certain(tmp_path: Path) -> None:
    score = Scorer(toy_decoder(tmp_path)).score(Question.of([1, 2], [], 8))
    assert (score.log_likelihood, score.greedy) == (0.0, True)
