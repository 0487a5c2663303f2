"""Models side by side, with figures that can be computed by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation import ExportedModel, Windowing, evaluate_models
from resq_onnx.runtime import Decoder, create_session
from tests.runtime import toy

FLOAT64_TOLERANCE: Final = 1e-12
"""Sums of float64 numbers in another order."""

FLOAT32_TOLERANCE: Final = 1e-6
"""Logits are float32, and so are their logarithms here."""


class Predicting:
    """After token t, the distribution that row t of a table says; remembers what it read."""

    def __init__(self, table: Any, scale: float = 1.0) -> None:
        self.table = np.asarray(table, np.float64)
        self.scale = scale
        self.seen: list[list[int]] = []

    def logits(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self.seen += ids.tolist()
        return np.log(self.table)[ids].astype(np.float32)

    def logits_and_layers(self, ids: NDArray[np.int64]) -> Any:
        embedded = self.embeddings(ids)
        return self.logits(ids), np.stack([embedded, self.scale * embedded])

    def embeddings(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.eye(len(self.table), dtype=np.float32)[ids] + 1.0


SURE = Predicting([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
"""Its choices after 0, 1, 2 are 0, 1, 2."""

UNSURE = [[0.25, 0.5, 0.25], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]]
"""Its choices are 1, 1, 2."""

KL = (
    0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5),
    0.0,
    2 * 0.2 * math.log(0.2 / 0.25) + 0.6 * math.log(0.6 / 0.5),
)
"""Of SURE from UNSURE, after 0, 1 and 2."""


def uniform(vocabulary: int = 8) -> Predicting:
    return Predicting(np.full((vocabulary, vocabulary), 1 / vocabulary))


def test_a_model_that_knows_nothing_has_the_vocabulary_as_perplexity() -> None:
    (found,) = evaluate_models([uniform(8)], np.arange(40) % 8, Windowing(10))
    assert found.perplexity.perplexity == pytest.approx(8.0, rel=FLOAT32_TOLERANCE)
    assert (found.perplexity.tokens, found.perplexity.windows) == (36, 4)
    assert found.distance is None


def test_perplexity_of_the_toy_is_what_its_logits_say(tmp_path: Path) -> None:
    decoder = Decoder(create_session(toy.save_toy(tmp_path / "toy.onnx"), threads=1))
    tokens = np.random.default_rng(0).integers(0, toy.VOCABULARY, 60)
    tokens[1] = toy.expected_tokens(tokens[None, :1])[0, 0]  # at least one token is foreseen
    windows = tokens.reshape(3, 20)
    hits = int((toy.expected_tokens(windows)[:, :-1] == windows[:, 1:]).sum())
    log_sum = math.log(math.exp(toy.PEAK) + toy.VOCABULARY - 1)
    expected = log_sum - toy.PEAK * hits / 57
    assert hits > 0
    for token_by_token in (False, True):
        model = ExportedModel(decoder, token_by_token)
        (found,) = evaluate_models([model], tokens, Windowing(20))
        assert found.perplexity.nll == pytest.approx(expected, rel=FLOAT64_TOLERANCE)


def test_distance_and_perplexity_ratio_are_those_computed_by_hand() -> None:
    model = Predicting(UNSURE)
    tokens = [0, 0, 1, 2, 1, 0]  # one window: 0, 1, 2, 1, 0 predicted after 0, 0, 1, 2, 1
    (found,) = evaluate_models([model], tokens, Windowing(6), reference=SURE)
    assert found.distance is not None
    expected = (KL[0] + KL[0] + KL[1] + KL[2] + KL[1]) / 5
    assert found.distance.kl_divergence == pytest.approx(expected, rel=FLOAT32_TOLERANCE)
    assert found.distance.top1_agreement == 3 / 5
    assert found.layer_sqnr_db is None
    # Losses of the model less those of the reference.
    differences = [math.log(0.5 / 0.25), math.log(0.25 / 0.5), 0.0, math.log(0.2 / 0.25), 0.0]
    ratio = math.exp(sum(differences) / 5)
    assert found.distance.perplexity_ratio == pytest.approx(ratio, rel=FLOAT32_TOLERANCE)
    error = ratio * float(np.std(differences, ddof=1)) / math.sqrt(5)
    assert found.distance.standard_error == pytest.approx(error, rel=FLOAT32_TOLERANCE)
    nll = -math.log(0.25 * 0.5 * 0.1 * 0.25 * 0.1) / 5
    assert found.perplexity.nll == pytest.approx(nll, rel=FLOAT32_TOLERANCE)


def test_with_a_stride_only_new_tokens_count() -> None:
    model, reference = Predicting(UNSURE), Predicting(SURE.table)
    tokens = [0, 1, 2, 0, 1, 2, 2]
    (found,) = evaluate_models([model], tokens, Windowing(4, stride=3), reference=reference)
    assert model.seen == reference.seen == [[0, 1, 2], [0, 1, 2]]
    (less,) = evaluate_models([model], tokens, Windowing(4, stride=1), reference=reference)
    assert found.distance is not None
    assert less.distance is not None
    # Predicted after 0, 1, 2, then after 0, 1, 2: whatever the windows, each once.
    for one in (found, less):
        assert one.distance is not None
        assert one.perplexity.tokens == 6
        assert one.distance.kl_divergence == pytest.approx(sum(KL) / 3, rel=FLOAT32_TOLERANCE)
        assert one.distance.top1_agreement == 2 / 3
    (separate,) = evaluate_models([model], tokens, Windowing(4), reference=reference)
    assert separate.perplexity.tokens == 3


def test_a_reference_among_the_models_runs_once_and_is_at_no_distance() -> None:
    reference, model = Predicting(SURE.table), Predicting(UNSURE)
    steps: list[tuple[int, int]] = []
    found = evaluate_models(
        [reference, model],
        [0, 1, 2, 1, 0, 2],
        Windowing(3),
        reference=reference,
        per_layer=True,
        progress=lambda done, all_: steps.append((done, all_)),
    )
    assert reference.seen == model.seen == [[0, 1], [1, 0]]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    itself = found[0].distance
    assert itself is not None
    assert (itself.kl_divergence, itself.top1_agreement) == (0.0, 1.0)
    assert (itself.perplexity_ratio, itself.standard_error) == (1.0, 0.0)
    assert found[0].layer_sqnr_db == (math.inf, math.inf)


def test_noise_of_layers_is_measured_on_the_tokens_that_count() -> None:
    reference, model = Predicting(SURE.table), Predicting(UNSURE, scale=0.9)
    (found,) = evaluate_models(
        [model], [0, 1, 2, 0], Windowing(4), reference=reference, per_layer=True
    )
    assert found.distance is not None
    assert found.layer_sqnr_db is not None
    embedding, layer = found.layer_sqnr_db
    assert embedding > 10 * math.log10(1 / FLOAT32_TOLERANCE**2)
    assert layer == pytest.approx(20.0, rel=FLOAT32_TOLERANCE)  # |x| to |0.9 x - x|


def test_of_one_token_no_error_is_known() -> None:
    (found,) = evaluate_models([Predicting(UNSURE)], [0, 1], reference=SURE)
    assert found.distance is not None
    assert found.distance.standard_error is None


def test_models_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ResqError, match="vocabulary of 8 and the reference one of 3"):
        evaluate_models([uniform(8)], [0, 1, 2], reference=SURE)


def test_a_text_too_short_is_refused_before_anything_runs() -> None:
    model = uniform()
    with pytest.raises(ResqError, match="text has 1 tokens"):
        evaluate_models([model], [1])
    assert model.seen == []
