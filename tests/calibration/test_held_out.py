from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.calibration import held_out
from resq_onnx.calibration.built_in import PYTHON_DOCS as DOCS
from resq_onnx.calibration.built_in import shares_of
from resq_onnx.calibration.corpus import calibration_sequences
from resq_onnx.calibration.held_out import TOKENS, held_out_sequences, text_shape
from resq_onnx.calibration.texts import load_text
from resq_onnx.recipe import Recipe


class Numbering:
    """A tokenizer that gives every character of a text its own number, across calls."""

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Any:
        ids, start = [], 0
        for piece in text:
            ids.append(list(range(start, start + len(piece))))
            start += len(piece)
        return {"input_ids": ids}


def held_out_ids(recipe: Recipe, samples: int = 4, length: int = 300) -> NDArray[np.int64]:
    return held_out_sequences(Numbering(), samples, length, recipe.to_json())


@pytest.mark.parametrize("seed", [0, 7])
def test_no_token_was_calibrated_on(seed: int) -> None:
    recipe = Recipe(calibration=DOCS, samples=300, sequence_length=512, seed=seed)
    calibrated = calibration_sequences(
        Numbering(), recipe.calibration, recipe.samples, recipe.sequence_length, seed
    )
    found = held_out_ids(recipe)
    assert found.shape == (4, 300)
    assert (np.diff(found, axis=1) == 1).all()  # whole windows of the text
    assert not np.isin(found, calibrated).any()


def test_no_token_was_calibrated_on_where_sequences_begin_with_bos() -> None:
    recipe, bos = Recipe(calibration=DOCS, samples=300, bos=True), -1
    calibrated = calibration_sequences(
        Numbering(), recipe.calibration, recipe.samples, 512, recipe.seed, opening=[bos]
    )
    found = held_out_sequences(Numbering(), 4, 300, recipe.to_json(), opening=[bos])
    assert found.shape == (4, 300)
    assert (found[:, 0] == bos).all()
    assert (np.diff(found[:, 1:], axis=1) == 1).all()
    assert not np.isin(found[:, 1:], calibrated[:, 1:]).any()


def test_a_calibration_of_before_there_was_an_opening_took_its_sequences_without() -> None:
    old = Recipe(calibration=DOCS, samples=300).to_json()
    del old["bos"]
    calibrated = calibration_sequences(Numbering(), old["calibration"], 300, 512, seed=0)
    found = held_out_sequences(Numbering(), 4, 300, old, opening=[-1])
    assert not np.isin(found[:, 1:], calibrated).any()


def test_another_text_takes_nothing_away() -> None:
    away, other = (
        Recipe(calibration=DOCS, samples=300),
        Recipe(samples=300, calibration="prose.txt"),
    )
    assert not np.array_equal(held_out_ids(away), held_out_ids(other))
    assert np.array_equal(held_out_ids(other), held_out_ids(Recipe(calibration="b.txt")))


@pytest.mark.parametrize("mix", ["bundled", "auto"])
def test_what_a_mix_reads_of_the_documentation_is_held_out_too(mix: str) -> None:
    recipe = Recipe(calibration=mix, samples=800)
    read = shares_of(mix, recipe.samples)[DOCS]
    calibrated = calibration_sequences(Numbering(), DOCS, read, 512, seed=0)
    assert not np.isin(held_out_ids(recipe), calibrated).any()


def test_text_of_the_models_own_takes_nothing_away() -> None:
    own, other = (Recipe(calibration=text, samples=300) for text in ("self", "prose.txt"))
    assert np.array_equal(held_out_ids(own), held_out_ids(other))


def test_where_the_calibration_took_everything_its_text_serves() -> None:
    assert held_out_ids(Recipe(calibration=DOCS, samples=100_000)).shape == (4, 300)


def test_a_text_shorter_than_a_sequence_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "load_text", lambda _: ["short text"])
    assert held_out_ids(Recipe(), samples=2).shape == (1, 10)


def test_the_text_is_long_enough_for_a_default_calibration() -> None:
    taken = Recipe().samples * Recipe().sequence_length
    # Four characters are about a token.
    assert sum(map(len, load_text("python-docs"))) / 4 > 2 * taken


@pytest.mark.parametrize("positions", [0, 1, 2, 7, 64, 256, 10**6])
def test_enough_tokens_are_compared_however_few_positions_a_model_has(positions: int) -> None:
    count, length = text_shape(positions)
    assert count * length >= TOKENS
    assert length <= max(positions, 2)
